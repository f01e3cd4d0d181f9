"""Whether another clip explains an update as well as the answer does.

A small gradient residual certifies the update that an answer would cause, not
its pixels: where a network has fewer equations than pixels, many clips cause
one update. So the answer is moved a little at random, and Gauss-Newton makes
the moved clip explain the update again. It changes only what the update shows;
what is left of the move is what the update does not show.
"""

import jax
import numpy as np

from vidleak_jax.attacks.analytic.polish import polish
from vidleak_jax.attacks.base import Problem
from vidleak_jax.attacks.residual import gradient_residual
from vidleak_jax.types import Recovery
from vidleak_jax.victims.introspection import (
    identifiability,
    shown_share,
)

_MOVE = 0.02          # standard deviation of the move, of a pixel in [0, 1]
_AS_WELL = 1.5        # times the answer's residual
_EXACT = 1e-6         # residuals below this are the rounding of float32 alone
_AMPLE = 2.0          # equations a pixel, by count, of which many depend
_KEY = 0x616d6269     # folded into the attack's key


def may_be_ambiguous(problem: Problem) -> bool:
  """Returns whether a count of equations leaves room for other clips.

  Networks that introspection does not understand may leave it, too.
  """
  graph, batch_size = problem.victim.graph, problem.leak.public.batch_size
  counts = graph and identifiability(graph, batch_size)
  if not graph or not counts or not counts[0].determined:
    return True
  return shown_share(graph, batch_size) < _AMPLE


def undetermined(problem: Problem, recovery: Recovery, num_steps: int,
                 inner_steps: int) -> np.ndarray:
  """Returns the share of pixel directions an update does not show, [M].

  NaN where the moved clip did not come to explain the update as well as the
  answer does: then nothing is shown about it.

  Args:
    problem: what the attacker has; one plain gradient an update.
    recovery: the answer to each update.
    num_steps: of Gauss-Newton, in float64.
    inner_steps: conjugate gradients in each.
  """
  clips = np.asarray(recovery.clips, np.float32)
  key = jax.random.fold_in(problem.key, _KEY)
  move = _MOVE * np.asarray(jax.random.normal(key, clips.shape, np.float32))
  found = polish(problem.victim.loss, problem.leak, clips + move,
                 recovery.labels, num_steps=num_steps, inner_steps=inner_steps,
                 key=problem.victim.key)
  residual = gradient_residual(problem.victim, problem.leak,
                               found.clips.astype(np.float32), recovery.labels)
  before = np.maximum(np.asarray(recovery.gradient_residual), _EXACT)
  axes = tuple(range(1, clips.ndim))
  share = (np.sum((found.clips - clips) ** 2, axes)
           / np.sum(move.astype(np.float64) ** 2, axes))
  return np.where(residual <= _AS_WELL * before, share, np.nan)
