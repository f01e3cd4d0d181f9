"""From the head to the input of a network's first solvable block.

Block `a = relu(n1(conv1 x))`, `y = relu(n2(conv2 a) + skip(x))`, from y and
dL/dy: the mask y > 0 gives dL/d of conv2's output; conv2's gradient is linear
in a; its mask gives dL/d of conv1's output, and conv1's gradient gives x; both
branches pulled back give dL/dx. Least squares only, without steps on pixels.
"""

import dataclasses
import itertools
from typing import NamedTuple

import numpy as np

from vidleak_jax.attacks.analytic.head_unmixing import unmix_head
from vidleak_jax.attacks.analytic.peeling import equations, facts, top
from vidleak_jax.attacks.analytic.peeling.blocks import (
    Block,
    Leaves,
    Network,
    Unit,
    below,
)
from vidleak_jax.attacks.analytic.peeling.equations import Outputs, Source
from vidleak_jax.attacks.analytic.peeling.signs import active, repaired
from vidleak_jax.types import UserError

_MAX_ORDERS = 200  # of positions of the last block that are tried
_REPAIRS = 3       # rounds in which ReLUs may change
_FINE = 2e-6       # residual of right equations of a float32 gradient
_WRONG = 1e-3      # residual of equations that do not hold


class Known(NamedTuple):
  """What is known of the output of a ReLU; float64, flat over positions."""
  value: np.ndarray | None  # [P, C], 0 where off; None above the last block
  sigma: np.ndarray | None  # [P, C] standard deviation of its error
  slope: np.ndarray         # [P, C] dL/d of it
  on: np.ndarray            # [P, C] bool


@dataclasses.dataclass(frozen=True)
class Row:
  """One layer's input as it was solved, for the report."""
  layer: str
  unknowns: int      # positions of the input; the same for every channel
  equations: int     # of the kernels, for one channel
  rank: int
  condition: float
  residual: float
  steps: int         # of conjugate gradients on known outputs
  toggled: int       # ReLUs that the bias's gradient settled
  doubtful: int      # channels whose ReLUs it contradicts


class Head(NamedTuple):
  """What the last layer's gradient says of each clip."""
  slopes: np.ndarray  # [B, F] dL/d of the mean of the last block's output
  labels: np.ndarray  # [B]


def read_head(network: Network, leaves: Leaves, update: Leaves) -> Head:
  """Returns the label and the slope of each clip.

  Raises:
    UserError: the gradient of the head's bias is zero, or the clips of a batch
      do not separate.
  """
  kernel, bias = (leaves[path] for path in (
      network.head.kernel, network.head.bias))
  moved, error = (update[path] for path in (
      network.head.kernel, network.head.bias))
  if not error.any():
    raise UserError('The gradient of the last bias is zero: nothing of the '
                    'clip is in it. Choose attack.name=ig.')
  if network.num_clips > 1:
    found = unmix_head(kernel, bias, moved, error, network.num_clips)
    if not found.certified:
      raise UserError(f'The clips of the batch do not separate. {found.note}')
    return Head(found.errors @ kernel.T / network.num_clips, found.labels)
  logits = moved @ error / (error @ error) @ kernel + bias
  # A clip that the network is sure of has no negative entry left.
  label = np.argmin(error) if error.min() < 0 else np.argmax(logits)
  return Head((kernel @ error)[None], np.array([label], np.int32))


def peel_top(network: Network, leaves: Leaves, update: Leaves
             ) -> tuple[Known, list[Row]]:
  """Returns what is known of the last block's input, and the report.

  Raises:
    UserError: its ReLUs cannot be told apart.
  """
  unit = network.blocks[-1].main[-1]
  slopes = read_head(network, leaves, update).slopes
  slopes = slopes * network.num_clips / unit.geometry.num_out
  scale, _ = unit.affine(leaves)
  sums = unit.sums(update)
  counts = None  # the sums of a batch are of several slopes
  if sums is not None and len(slopes) == 1:
    counts = np.round(sums / np.where(slopes[0] == 0, np.inf, slopes[0]))
  slope = np.repeat(slopes, unit.geometry.num_out // len(slopes), axis=0)
  wrong = UserError('the ReLUs of the last block do not separate')
  for on in itertools.islice(
      top.masks_of(unit.kernel(update), unit.geometry, slopes * scale, counts),
      _MAX_ORDERS):
    try:
      return peel(network, len(network.blocks) - 1,
                  Known(None, None, slope, on), leaves, update)
    except UserError as error:
      wrong = error
  raise wrong


def peel(network: Network, index: int, out: Known, leaves: Leaves,
         update: Leaves) -> tuple[Known, list[Row]]:
  """Returns what is known of a block's input, from its output.

  Args:
    network: the victim.
    index: of the block.
    out: its output.
    leaves: the parameters by path, float64.
    update: the mean gradient of the clips by path, float64.

  Returns:
    (the input, a row for each layer solved, the upper first).

  Raises:
    equations.Undetermined: the equations do not suffice.
    UserError: they disagree.
  """
  block = network.blocks[index]
  out, inner, known, rows = _peel_units(
      block, out, len(block.main) - 1, leaves, update)
  first = block.main[0]
  solved, slope = _solve_input(block, out, inner, known, leaves, update)
  unit = below(network, index)
  known, found = _known(solved, slope, unit and unit.sums(update))
  rows.append(_row(first.name, block.first_units, solved, found))
  return known, rows


def peel_partly(network: Network, index: int, out: Known, leaves: Leaves,
                update: Leaves) -> tuple[tuple[facts.Fact, ...], list[Row]]:
  """Returns what is known below a block's output where it is not solvable.

  Args:
    network: the victim.
    index: of the block.
    out: its output.
    leaves: the parameters by path, float64.
    update: the mean gradient of the clips by path, float64.

  Returns:
    (facts about what it computes, a row for each layer solved).

  Raises:
    UserError: the equations disagree.
  """
  block = network.blocks[index]
  count = min(block.num_solvable, len(block.main) - 1)
  out, inner, known, rows = _peel_units(block, out, count, leaves, update)
  graph = network.graph
  if inner is None:
    found = [facts.of_relu(graph, block.output, out.value, out.on)]
  else:
    found = [
        facts.of_relu(graph, block.main[-count].source, known.value, known.on),
        facts.of_sum(block.shortcut.output if block.shortcut else block.source,
                     out.value, out.on, _branch(block.main[-1], inner, leaves))]
  unit = block.main[-1 - count]
  sources = [_source(unit, known, leaves, update)]
  if count == len(block.main) - 1 and block.shortcut:
    sources.append(_source(block.shortcut, out, leaves, update))
  shown = equations.shown(sources)
  found.append(facts.Shown(unit.source, shown.basis, shown.value))
  _check(unit.name, shown.residual)
  rows.append(Row(unit.name, unit.geometry.num_in,
                  sum(source.gradient[:, 0].size for source in sources),
                  shown.basis.shape[1], shown.condition, shown.residual, 0, 0,
                  0))
  return tuple(found), rows


def _peel_units(block: Block, out: Known, count: int, leaves: Leaves,
                update: Leaves
                ) -> tuple[Known, Known | None, Known, list[Row]]:
  """(the output repaired, the last unit's input, the lowest input, rows).

  Solves for the inputs of the last `count` units of a block's main branch.
  """
  known, inner, rows = out, None, []  # `known`: the ReLU behind `above`
  uppers = block.main[:0:-1][:count]
  for unit, above in zip(block.main[-2::-1], uppers):
    known, solved, dz = _solve_unit(above, known, [], leaves, update,
                                    forward=known is not out)
    out = out if inner else known
    slope = above.geometry.pull_back(dz, above.kernel(leaves))
    known, found = _known(solved, slope, unit.sums(update))
    rows.append(_row(above.name, [above], solved, found))
    inner = inner or known
  return out, inner, known, rows


def _source(unit: Unit, known: Known, leaves: Leaves, update: Leaves) -> Source:
  """The equations of a kernel's gradient, from the ReLU behind the unit."""
  dz = known.slope * known.on * unit.affine(leaves)[0]
  return Source(unit.geometry, dz, unit.kernel(update))


def _branch(last: Unit, inner: Known, leaves: Leaves) -> np.ndarray:
  """What a block's main branch answers, [P, C]."""
  scale, shift = last.affine(leaves)
  return last.geometry.forward(
      inner.value, last.kernel(leaves)) * scale + shift


def _solve_unit(unit: Unit, known: Known, more: list[Source], leaves: Leaves,
                update: Leaves, *, forward: bool = True,
                outputs: tuple[Outputs, ...] = ()
                ) -> tuple[Known, equations.Solved, np.ndarray]:
  """(the ReLU behind a unit, repaired; the unit's input; dL/d of its output).

  The input shows in turn which cotangents the kernel's gradient was made of.
  """
  full = known.slope * unit.affine(leaves)[0]
  for _ in range(_REPAIRS):
    source = Source(unit.geometry, full * known.on, unit.kernel(update))
    rows = (_active_outputs(unit, known, leaves),) if forward else ()
    solved = equations.solve([source, *more], [*rows, *outputs])
    if solved.residual < _FINE:
      break
    on = repaired(known.on, full, equations.cotangents(source, solved.x))
    if (on == known.on).all():
      break
    known = known._replace(on=on)
  return known, solved, source.dz


def _solve_input(block: Block, out: Known, inner: Known | None, known: Known,
                 leaves: Leaves, update: Leaves
                 ) -> tuple[equations.Solved, np.ndarray]:
  """(the block's input before its ReLUs are settled, dL/d of it)."""
  first, last, shortcut = block.main[0], block.main[-1], block.shortcut
  more, outputs = [], []
  skipped = None  # what the shortcut answers where the block's output is on
  if out.value is not None and inner is not None:
    skipped = out._replace(value=out.value - _branch(last, inner, leaves))
  slope = cotangent = out.slope * out.on
  if shortcut:
    dzs = cotangent * shortcut.affine(leaves)[0]
    more = [Source(shortcut.geometry, dzs, shortcut.kernel(update))]
    slope = shortcut.geometry.pull_back(dzs, shortcut.kernel(leaves))
    if skipped:
      outputs = [_active_outputs(shortcut, skipped, leaves)]
  known, solved, dz = _solve_unit(first, known, more, leaves, update,
                                  forward=inner is not None,
                                  outputs=tuple(outputs))
  slope = slope + first.geometry.pull_back(dz, first.kernel(leaves))
  if skipped and not shortcut:  # the identity shows the input as it is
    sigma = np.sqrt(np.mean(out.sigma ** 2)) + np.zeros_like(solved.sigma)
    solved = solved._replace(
        x=np.where(out.on, skipped.value, solved.x),
        sigma=np.where(out.on, sigma, solved.sigma))
  return solved, slope


def _known(solved, slope, sums):
  found = active(solved.x, solved.sigma, slope, sums)
  value = np.where(found.on, np.maximum(solved.x, 0.0), 0.0)
  return Known(value, solved.sigma, slope, found.on), found


def _active_outputs(unit: Unit, known: Known, leaves: Leaves) -> Outputs:
  """The outputs of a unit where the ReLU behind it is on."""
  kernel, (scale, shift) = unit.kernel(leaves), unit.affine(leaves)
  # Errors of neighbours are alike; one small estimate must not rule.
  sigma = np.sqrt(np.mean(known.sigma ** 2))
  return Outputs(
      lambda x: unit.geometry.forward(x, kernel) * scale,
      lambda y: unit.geometry.pull_back(y * scale, kernel),
      known.value - shift, known.on / max(sigma, 1e-300))


def _row(name, units, solved, found) -> Row:
  _check(name, solved.residual)
  return Row(
      name, units[0].geometry.num_in, sum(u.num_rows for u in units),
      solved.rank, solved.condition, solved.residual, solved.steps,
      found.num_toggled, found.num_doubtful)


def _check(name: str, residual: float) -> None:
  if not residual < _WRONG:
    raise UserError(
        f'The equations of {name} disagree by {residual:.0e}: the update has '
        'noise, passed a defence, or is of another network. Choose '
        'attack.name=ig.')
