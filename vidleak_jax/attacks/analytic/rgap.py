"""From the last layer to the clip, layer by layer, by linear algebra.

R-GAP (2010.07733) for many classes, 2-D and 3-D convolutions, any stride and
padding. Let layer l map x to h = f(z), z = linear(W, x) + b, and let h and
dL/dh be known. Then z = f^-1(h), dL/dz = dL/dh f'(z), and two linear systems
hold for x: linear(W, x) = z - b, and sum dL/dz d linear/dW(x) = dL/dW. How they
are solved stands in `rgap_layer`.
"""

import dataclasses
import functools
import itertools
import math
from typing import ClassVar, NamedTuple

import jax
import numpy as np

from vidleak_jax import trees
from vidleak_jax.attacks.analytic import (
    dense,
    linear_solvers,
    per_message,
    recurrent,
    rgap_layer,
)
from vidleak_jax.attacks.analytic.activations import INVERTIBLE
from vidleak_jax.attacks.analytic.solver import Analytic, Solution, doubts
from vidleak_jax.attacks.base import Problem, needs_one_clip
from vidleak_jax.types import Layer, Leak, UserError, Victim

_ROUNDING = 1e-7  # of float32, the least error assumed
_GREY = 0.5       # what unknown pixels are taken for


@dataclasses.dataclass(frozen=True)
class RGap(Analytic):
  """Layer after layer by least squares, from the head down to the pixels.

  >>> RGap(polish_steps=0).name
  'rgap'
  """
  name: ClassVar[str] = 'rgap'
  cost: ClassVar[int] = 20

  def requires(self, victim: Victim, leak: Leak) -> list[str]:
    """See `Attack.requires`; counts the equations of every layer too."""
    reasons = needs_one_clip(leak) + needs_chain(victim)
    if reasons:
      return reasons
    closed = [layer.name for layer in victim.layers[:-1]
              if layer.activation not in INVERTIBLE]
    if closed:
      return [f'the activations after {", ".join(closed)} have no inverse']
    return [f'{name} has {equations} equations for {unknowns} unknowns'
            for name, equations, unknowns in count_equations(victim, leak)
            if equations < unknowns]

  def solve(self, problem: Problem) -> Solution:
    """See `Analytic.solve`."""
    return solve_chain(problem)[0]


def needs_chain(victim: Victim) -> list[str]:
  """Returns why a network is no chain of layers that can be walked down."""
  if not victim.layers:
    return ['it needs a network that is a plain chain of layers and '
            'activations, such as c3d or lenet']
  if any(recurrent.is_recurrent(layer) for layer in victim.layers):
    return ['a recurrent layer stands in the chain']
  shifted = [layer.name for layer in victim.layers if layer.shifted]
  if shifted:
    return [f'a constant is added to the input of {", ".join(shifted)}']
  return []


def count_equations(
    victim: Victim, leak: Leak) -> list[tuple[str, int, int]]:
  """Returns (layer, equations, unknowns) below the head, the last one first.

  The equations are a layer's outputs and the entries of its kernel's gradient.
  """
  rows = []
  for layer, above in reversed(list(itertools.pairwise(victim.layers))):
    entries = trees.named(leak.params, layer.name)['kernel'].size
    rows.append((layer.name, math.prod(above.in_shape) + int(entries),
                 math.prod(layer.in_shape)))
  return rows


def solve_chain(problem: Problem) -> 'tuple[Solution, Walk]':
  """Returns how far the recursion came, as a solution and as it is.

  The solution holds clips where the walk reached them, else the deepest
  activation in their place.
  """
  leak = problem.leak
  walk = walk_down(problem.victim, leak, batch_size=1)
  clips = walk.activations
  if not walk.stopped:
    clips = clips.reshape(leak.num_updates, 1, *leak.public.clip_shape)
  return Solution(clips, walk.labels[:, None], walk.report,
                  walk.stopped or doubts(walk.report)), walk


class Walk(NamedTuple):
  """How far down the layers the recursion came.

  `activations` is the input of the layer `layer`: the clips themselves when
  `stopped` is empty, else the deepest exactly known activation, which is the
  output of the layer before.
  """
  activations: np.ndarray  # [M, *layer.in_shape] float64
  layer: str
  labels: np.ndarray       # [M] int32
  report: list[dict]       # per layer, last first; see `_row`
  stopped: str             # why it went no further, for the user; or ''


def walk_down(
    victim: Victim,
    leak: Leak,
    *,
    batch_size: int | None = None,
    max_steps: int = 2000,
    tolerance: float = 1e-7,
) -> Walk:
  """Recovers the inputs of all layers, the last first.

  Args:
    victim: lists its `layers`; the last one is dense with identity.
    leak: M messages of one clip each.
    batch_size: clips per message, where the attacker knows it.
    max_steps: of conjugate gradients, per layer.
    tolerance: at which they stop, see `linear_solvers.least_squares`.

  Raises:
    UserError: the victim lists no layers, has no bias, or a message holds
      more than one clip.
  """
  if not victim.layers:
    raise UserError(
        'This victim is no chain of linear maps and activations, so the '
        'recursion does not apply. Choose victim.name=lenet or c3d, or '
        'attack.name=ig.')
  params, update = trees.to_float64(leak.params), trees.to_float64(leak.update)
  last = victim.layers[-1]
  path = tuple(last.name.split('/'))
  head = dense.dense_input(update, path, batch_size)
  report = [_dense_row(last, head)]
  known = head.features.reshape(-1, *last.in_shape)
  # One clip a message: the last bias gradient is dL/dz itself.
  dz = trees.at(update, path)['bias']
  labels = _labels(update, path, head.features, trees.at(params, path))
  down = dz @ trees.at(params, path)['kernel'].T
  for i in range(len(victim.layers) - 2, -1, -1):
    layer, above = victim.layers[i:i + 2]
    if layer.activation not in INVERTIBLE:
      return Walk(known, above.name, labels, report, _why(layer, above))
    before = victim.layers[i - 1].activation if i else ''
    rest = INVERTIBLE[before].rest if before in INVERTIBLE else _GREY
    above = report[-1]
    blur = rgap_layer.DOUBT * above['condition'] * max(
        above['residual'], _ROUNDING)
    step = functools.partial(
        rgap_layer.step_down, layer, rest, max_steps, tolerance)
    solution, down, open_directions = per_message.over_messages(
        step, (trees.named(params, layer.name), np.float64(blur)), _with_probe(
            (trees.named(update, layer.name), known,
             down.reshape(known.shape))),
        key=('layer down', victim.key, layer.name, rest, max_steps, tolerance))
    report.append(_row(layer, trees.named(update, layer.name), known, solution,
                       open_directions[-1]))
    solution, down = jax.tree.map(lambda a: a[:-1], (solution, down))
    known = solution.x
  return Walk(known, victim.layers[0].name, labels, report, '')


def _labels(update, path, features, params):
  """[M] int32, also of clips that the network is too sure of.

  Where it gives the label a probability that rounds to 1, no bias gradient is
  negative; but then the label is what it answers.
  """
  answer = np.argmax(features @ params['kernel'] + params['bias'], -1)
  negative = np.any(trees.at(update, path)['bias'] < 0, -1)
  inferred = dense.infer_label(update, path)
  return np.where(negative, inferred, answer).astype(np.int32)


def _with_probe(messages):
  """Repeats the first message at the end, marked: it will measure the rank."""
  count = len(jax.tree.leaves(messages)[0])
  again = jax.tree.map(lambda a: np.concatenate([a, a[:1]]), messages)
  return *again, np.arange(count + 1) == count


def _dense_row(layer, head):
  n = head.features.shape[1]
  return {'layer': layer.name, 'rank': n, 'unknowns': n, 'equations': n,
          'condition': 1.0, 'residual': float(np.max(head.residual)),
          'steps': 0}


def _row(
    layer: Layer, update, h, solution: linear_solvers.Solution, missed
) -> dict:
  """One row of the report, the worst over messages.

  `equations` counts those of one message: outputs, plus the kernel entries
  that arrived. `rank` is at most that, and is measured by a random probe of
  the first message. `condition` is that of the weighted, column-scaled system
  within its range, as conjugate gradients saw it (`linear_solvers.condition`).
  """
  unknowns = int(np.prod(layer.in_shape))
  arrived = min(int(rgap_layer.arrived(kernel).sum())
                for kernel in update['kernel'])
  equations = int(np.prod(h.shape[1:])) + arrived
  return {
      'layer': layer.name,
      'rank': min(equations, int(np.rint(unknowns - missed))),
      'unknowns': unknowns, 'equations': equations,
      'condition': max(map(linear_solvers.condition, _split(solution))),
      'residual': float(np.max(solution.residual[:-1])),
      'steps': int(np.max(solution.steps)),
  }


def _split(stacked):
  """A pytree with leaves [M, ...] as M pytrees."""
  leaves, treedef = jax.tree.flatten(stacked)
  return [treedef.unflatten(each) for each in zip(*leaves)]


def _why(layer, above):
  return (
      f'The activation {layer.activation} after {layer.name} has no inverse, '
      f'so the closed form ends at the input of {above.name}, which is known '
      'exactly; the matching attack takes it as its target. Invertible are: '
      f'{", ".join(sorted(INVERTIBLE))}.')
