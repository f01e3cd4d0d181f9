"""Clips of transformers without learned positions, from spans alone."""

import dataclasses
import functools
import operator
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vidleak_jax.attacks.analytic import dense
from vidleak_jax.attacks.analytic.solver import Analytic, Solution
from vidleak_jax.attacks.analytic.subspace import (
  constraints,
  misplaced,
  search,
  stages,
  whole,
)
from vidleak_jax.attacks.base import Problem, needs_head, needs_one_clip
from vidleak_jax.options import option
from vidleak_jax.runtime import backend
from vidleak_jax.types import Leak, UserError, Victim
from vidleak_jax.victims.introspection import tokens


@dataclasses.dataclass(frozen=True)
class Subspace(Analytic):
  """A transformer's clip from the spans of what its first layers saw.

  DAGER (2405.15586) for video: no learned positions and no label are needed.
  """
  name: ClassVar[str] = 'subspace'
  cost: ClassVar[int] = 40
  polish_steps: int = option(0, 'of Gauss-Newton in float64; minutes', low=0,
                             high=1000)
  match_steps: int = option(
      40, 'of Gauss-Newton on the whole gradient, where the clip is not exact',
      low=0, high=10**6)
  sharpen_steps: int = option(
      0, 'slow steps, where the clip is not exact, that weigh the directions '
      'of the gradient by how well they show', low=0, high=10**6)

  def requires(self, victim: Victim, leak: Leak) -> list[str]:
    """See `Attack.requires`."""
    reasons = needs_one_clip(leak) + needs_head(victim)
    if victim.tokens is not None:
      reasons.append('learned positions: use transformer')
    if victim.logits is None:
      reasons.append('it needs the logits, and only a loss is known')
    if reasons:
      return reasons
    try:
      tokens.find(victim.graph)
    except UserError:
      reasons.append('it needs a video transformer, whose first dense layer '
                     'sees every pixel once, as patches')
    return reasons

  def solve(self, problem: Problem) -> Solution:
    """See `Analytic.solve`."""
    count = problem.leak.num_updates
    recovery = recover_spans(
        problem.victim, problem.leak, problem.leak.public.clip_shape,
        match_steps=self.match_steps, sharpen_steps=self.sharpen_steps,
        folder=problem.session.folder,
        report=lambda done, **values: problem.session.tell(
            'subspace attack', done, count, **values))
    return Solution(recovery.clips, recovery.labels[:, None], recovery.report,
                    recovery.note)


class SpanRecovery(NamedTuple):
  """Clips, and how far to trust them."""
  clips: np.ndarray   # [M, 1, T, H, W, C] float64, not clipped to [0, 1]
  labels: np.ndarray  # [M] int32
  report: list[dict]  # one row, the worst over messages
  note: str           # what is lost, for the user; '' when nothing is


def recover_spans(
    victim: Victim, leak: Leak, clip_shape: tuple[int, ...], *,
    match_steps: int = 0, sharpen_steps: int = 0, folder: Path | None = None,
    report: Callable[..., None] = lambda done, **values: None,
) -> SpanRecovery:
  """Searches the clip whose tokens lie where the gradient says, exactly.

  Every dense layer's kernel gradient gives the span of the layer's inputs
  (DAGER, 2405.15586), that of the patch embedding the span of all patches, and
  shared positions and biases give sums of the token errors: `evidence`. The
  first block's layers suffice. Nothing of the clip and no label is needed; the
  search starts from grey.

  Args:
    victim: a transformer over patches, its tokens fewer than its width.
    leak: M messages of one clip each.
    clip_shape: (T, H, W, C).
    match_steps: at most that many of Gauss-Newton on the whole gradient, where
      the clip found is not exact: `whole`.
    sharpen_steps: that many more where the clip found is not exact, with all
      directions weighed by how well they show: slow, and worth decibels.
    folder: where each message's state is kept, to go on after an interruption.
    report: told after each step how many messages are done, and as a keyword
      what the last search contradicts, or how far its clip's gradient is off.

  Raises:
    UserError: no such transformer, more than one clip per message, no layer
      whose span stands out of the noise, or fewer than no steps.
  """
  if sharpen_steps < 0:
    raise UserError(f'sharpen_steps of the attack is {sharpen_steps}; '
                    'it can be 0 or more.')
  dense.dense_input(leak.update, victim.head, 1)
  labels = dense.infer_label(leak.update, victim.head)
  shape = tuple(clip_shape)
  with backend.float64():
    params, updates = jax.tree.map(
        lambda leaf: np.asarray(leaf, np.float64), (leak.params, leak.update))
    layout = constraints.layout(victim, params, shape)
    program = search.build(victim.logits, layout, shape)
    check = _checker(victim, params)
    matching = whole.build(victim, program)
    fill = misplaced.build(program, layout)
    solved = []
    for i, label in enumerate(labels):
      update = jax.tree.map(operator.itemgetter(i), updates)
      work = stages.Work(
          program, layout, params, update, shape,
          functools.partial(check, label=label, update=update), label,
          matching, fill, match_steps, sharpen_steps,
          folder and folder / f'spans_{i}.npz',
          lambda cost, i=i: report(i, contradicted=cost))
      solved.append(stages.solve(work))
      report(i + 1, missed=solved[-1][1]['residual'])
  clips, rows = zip(*solved)
  worst = {key: max(row[key] for row in rows) for key in rows[0]}
  worst['rank'] = min(row['rank'] for row in rows)
  return SpanRecovery(np.stack(clips)[:, None], labels,
                      [{'layer': layout.block, **worst}], _note(worst))


def _checker(victim, params):
  """How far a clip's gradient is from an update, relative to that."""
  @jax.jit
  def missed(clip, label, update):
    gradient = jax.grad(victim.loss)(params, clip[None], label[None])
    return (optax.tree.norm(jax.tree.map(jnp.subtract, gradient, update))
            / optax.tree.norm(update))
  return missed


def _note(row):
  if row['residual'] < stages.EXACT:
    return ''
  return (f'Not exact: the gradient of what was found differs by '
          f'{row["residual"]:.0e} of the leak. {row["rank"]} of '
          f'{row["unknowns"]} token directions stand out of its noise; '
          f'{row["misplaced"]} tokens may be misplaced. More '
          'sharpen_steps of the attack may come nearer, slowly.')
