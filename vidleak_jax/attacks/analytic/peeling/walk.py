"""From the head to the input of a network's first solvable block.

Block `a = relu(n1(conv1 x))`, `y = relu(n2(conv2 a) + skip(x))`, from y and
dL/dy: the mask y > 0 gives dL/d of conv2's output; conv2's gradient is linear
in a; its mask gives dL/d of conv1's output, and conv1's gradient gives x; both
branches pulled back give dL/dx. Least squares only, without steps on pixels.
Norms of the data's own statistics make it a few rounds of least squares.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from vidleak_jax.attacks.analytic.head_unmixing import unmix_head
from vidleak_jax.attacks.analytic.peeling import equations, facts, top
from vidleak_jax.attacks.analytic.peeling.blocks import Block, Network, below
from vidleak_jax.attacks.analytic.peeling.equations import Outputs, Source
from vidleak_jax.attacks.analytic.peeling.signs import active, repaired
from vidleak_jax.attacks.analytic.peeling.units import Leaves, Moments, Unit
from vidleak_jax.types import UserError

_MAX_ORDERS = 200  # of positions of the last block that are tried
_REPAIRS = 3       # rounds in which ReLUs may change
_FINE = 2e-6       # residual of right equations of a float32 gradient
_WRONG = 1e-3      # residual of equations that do not hold
_ROUNDS = 40       # of least squares, at most
_SHRINKS = 0.5     # of the residual,
_PATIENCE = 3      # in so many rounds
_STILL = 1e-7      # relative change of a round that is the last
_ROUGH = (0.1,) * 5 + (0.06, 0.04)  # singular values used, round by round
_TRIMS = 4         # of channels that do not agree with the others
_OUTLYING = 5.0    # of the median disagreement
_RELATIVE_ZERO = 1e-5  # of the largest input


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


class Reader(NamedTuple):
  """A unit that reads an unknown input."""
  unit: Unit
  known: Known   # the ReLU behind it
  forward: bool  # whether the values there are its outputs


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
  slope = np.repeat(slopes, unit.geometry.num_out // len(slopes), axis=0)
  wrong = UserError('the ReLUs of the last block do not separate')
  for on in itertools.islice(_masks(unit, slopes, leaves, update), _MAX_ORDERS):
    try:
      return peel(network, len(network.blocks) - 1,
                  Known(None, None, slope, on), leaves, update)
    except UserError as error:
      wrong = error
  raise wrong


def _masks(unit: Unit, slopes: np.ndarray, leaves: Leaves, update: Leaves
           ) -> Iterator[np.ndarray]:
  """The masks of the last block in every order that is possible."""
  sums = unit.sums(update)
  if unit.is_affine:
    counts = None  # the sums of a batch are of several slopes
    if sums is not None and len(slopes) == 1:
      counts = np.round(sums / np.where(slopes[0] == 0, np.inf, slopes[0]))
    scale, _ = unit.affine(leaves)
    yield from top.masks_of(
        unit.kernel(update), unit.geometry, slopes * scale, counts)
    return
  count = unit.geometry.num_out
  x, dz = top.factors(unit.kernel(update), unit.geometry)
  moments = unit.moments(unit.geometry.forward(x, unit.kernel(leaves)))
  # Both means of the norm's cotangent are sums that the client has sent.
  gamma = unit.gamma(leaves)
  shown = dz * moments.sigma + unit.shared_mean(
      np.broadcast_to(gamma * sums / count, dz.shape)
  ) + moments.whitened * unit.shared_mean(np.broadcast_to(
      gamma * update[unit.norm.scale] / count, dz.shape))
  full = np.where(gamma * slopes == 0, np.inf, gamma * slopes)
  yield top.rounded(shown / full)


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
  first, last, shortcut = block.main[0], block.main[-1], block.shortcut
  unit = below(network, index)
  sums = unit and unit.sums(update)
  skipped = None  # what the shortcut answers where the block's output is on
  if out.value is not None and inner is not None:
    skipped = out._replace(value=out.value - _branch(last, inner, leaves))
  readers = [Reader(first, known, inner is not None)]
  beside = np.zeros((first.geometry.num_in, first.width_in))
  if shortcut:
    readers.append(Reader(shortcut, skipped or out, skipped is not None))
  else:
    beside = out.slope * out.on
  _, solved, slope = _solve(readers, sums, leaves, update, beside)
  if skipped and not shortcut:  # the identity shows the input as it is
    sigma = np.sqrt(np.mean(out.sigma ** 2)) + np.zeros_like(solved.sigma)
    solved = solved._replace(
        x=np.where(out.on, skipped.value, solved.x),
        sigma=np.where(out.on, sigma, solved.sigma))
  known, found = _known(solved, slope, sums)
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
    update: one clip's gradient by path, float64.

  Returns:
    (facts about what it computes, a row for each layer solved).

  Raises:
    UserError: the equations disagree.
  """
  block = network.blocks[index]
  count = min(block.num_solvable, len(block.main) - 1)
  unit = block.main[-1 - count]
  out, inner, known, rows = _peel_units(block, out, count, leaves, update)
  graph = network.graph
  if inner is None:
    found = [facts.of_relu(graph, block.output, out.value, out.on)]
  else:
    found = [
        facts.of_relu(graph, block.main[-count].source, known.value, known.on),
        facts.of_sum(block.shortcut.output if block.shortcut else block.source,
                     out.value, out.on, _branch(block.main[-1], inner, leaves))]
  units = [unit]
  if count == len(block.main) - 1 and block.shortcut:
    units.append(block.shortcut)
  behind = known, out._replace(value=found[-1].value) if inner else out
  readers = [Reader(each, one, inner is not None)
             for each, one in zip(units, behind)]
  if all(each.is_affine for each in units):
    shown = equations.shown([
        _source(reader, None, leaves, update) for reader in readers])
    found.append(facts.Shown(unit.source, shown.basis, shown.value))
    _check(unit.name, shown.residual)
  else:
    states = _rough_moments(readers, leaves, update)
    shown = equations.shown([
        _source(reader, state, leaves, update)
        for reader, state in zip(readers, states)], _ROUGH[0])
    found.append(facts.Proportions(unit.source, shown.basis, shown.value))
  rows.append(Row(unit.name, unit.geometry.num_in,
                  sum(each.num_rows for each in units),
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
    sums = unit.sums(update)
    reader = Reader(above, known, known is not out)
    (reader, *_), solved, slope = _solve([reader], sums, leaves, update)
    out = out if inner else reader.known
    known, found = _known(solved, slope, sums)
    rows.append(_row(above.name, [above], solved, found))
    inner = inner or known
  return out, inner, known, rows


def _branch(last: Unit, inner: Known, leaves: Leaves) -> np.ndarray:
  """What a block's main branch answers, [P, C]."""
  z = last.geometry.forward(inner.value, last.kernel(leaves))
  scale, shift = last.affine(leaves, last.moments(z))
  return z * scale + shift


def _solve(readers: list[Reader], sums: np.ndarray | None, leaves: Leaves,
           update: Leaves, beside: np.ndarray | float = 0.0
           ) -> tuple[list[Reader], equations.Solved, np.ndarray]:
  """Solves for an input from the units that read it.

  The equations are linear once the moments of the readers' norms are known, and
  these depend on the input: a fixed point, whose errors shrink by the root of
  the numbers that share their moments in each round. Kernels' gradients are the
  same for all multiples of the input; the sums of the norm below tell which.

  The input shows in turn which cotangents a kernel's gradient was made of.

  Args:
    readers: the first one's ReLUs are repaired.
    sums: [Cin] dL/dz of the unit below, over the positions, if known.
    leaves: the parameters by path.
    update: the gradient by path.
    beside: [Pin, Cin] dL/d of the input past the readers.

  Returns:
    (the readers repaired, the input, dL/d of it).

  Raises:
    equations.Undetermined: the equations do not suffice, or are too badly
      conditioned for the rounds to converge.
  """
  states = [_first_moments(reader, leaves) for reader in readers]
  if states[0] is not None and sums is None:
    raise equations.Undetermined(
        f'no sums tell the scale of what {readers[0].unit.name} reads')
  repairs, last, residuals = 0, 0.0, []
  for _ in range(_ROUNDS):
    solved, slope = _solve_once(readers, states, leaves, update)
    residuals.append(solved.residual)
    if _WRONG < solved.residual > _SHRINKS * min(residuals[:-_PATIENCE],
                                                 default=np.inf):
      raise equations.Undetermined(
          f'least squares and moments of {readers[0].unit.name} do not agree')
    if states[0] is not None:  # the same for all readers
      on = solved.x > _RELATIVE_ZERO * solved.x.max()
      share = _multiple(slope * on, sums - (beside * on).sum(0))
      solved = solved._replace(x=solved.x / share, sigma=solved.sigma / share)
      slope = slope * share
      states = [reader.unit.moments(reader.unit.geometry.forward(
          np.maximum(solved.x, 0.0), reader.unit.kernel(leaves)))
                for reader in readers]
      change, last = np.abs(solved.x - last).max(), solved.x
      if change > _STILL * solved.x.max():
        continue
    if solved.residual < _FINE or repairs == _REPAIRS - 1:
      break
    reader = readers[0]
    unit, known = reader.unit, reader.known
    source = _source(reader, states[0], leaves, update)
    on = repaired(known.on, *unit.scaled_slope(
        leaves, known.slope, equations.cotangents(source, solved.x),
        states[0]))
    if (on == known.on).all():
      break
    readers = [reader._replace(known=known._replace(on=on)), *readers[1:]]
    repairs += 1
  return readers, solved, slope + beside


def _solve_once(readers, states, leaves, update):
  """(the input, dL/d of it through the readers) at these moments."""
  sources = [_source(reader, state, leaves, update)
             for reader, state in zip(readers, states)]
  outputs = [_active_outputs(reader, state, leaves)
             for reader, state in zip(readers, states) if reader.forward]
  solved = equations.solve(sources, outputs)
  slope = sum(
      source.geometry.pull_back(source.dz, reader.unit.kernel(leaves))
      for source, reader in zip(sources, readers))
  return solved, slope


def _first_moments(reader: Reader, leaves: Leaves) -> Moments | None:
  """Where a ReLU is on its value tells them, but for their scale."""
  unit, known = reader.unit, reader.known
  if unit.is_affine:
    return None
  shape = known.slope.shape
  whitened = np.zeros(shape)
  if reader.forward:
    gamma = unit.gamma(leaves)
    shift = leaves[unit.norm.bias] if unit.norm.bias else 0.0
    whitened = np.where(known.on, (known.value - shift) / np.where(
        gamma == 0, np.inf, gamma), 0.0)
  return Moments(whitened, np.zeros(shape), np.ones(shape))


def _rough_moments(readers: list[Reader], leaves: Leaves, update: Leaves
                   ) -> list[Moments]:
  """Moments that the clear directions of badly conditioned kernels agree on.

  Known outputs stay as they are; what is off follows from the input so far.
  """
  states = [_first_moments(reader, leaves) for reader in readers]
  known = [state.whitened for state in states]
  for weak in _ROUGH:
    sources = [
        _source(reader, state._replace(sigma=np.ones_like(state.sigma)),
                leaves, update) for reader, state in zip(readers, states)]
    factors = equations.scales(
        sources, [reader.unit.groups for reader in readers], weak)
    shown = equations.shown([
        source._replace(dz=source.dz / factor)
        for source, factor in zip(sources, factors)], weak)
    x = np.maximum(shown.basis @ shown.value, 0.0)
    states = []
    for reader, before, factor in zip(readers, known, factors):
      unit = reader.unit
      state = unit.moments(unit.geometry.forward(x, unit.kernel(leaves)))
      states.append(state._replace(
          whitened=np.where(reader.known.on & reader.forward, before,
                            state.whitened),
          sigma=np.broadcast_to(factor, state.sigma.shape)))
  return states


def _multiple(slope: np.ndarray, sums: np.ndarray) -> float:
  """What dL/dx must be multiplied with to have these sums [C].

  A ReLU that is taken for on, or off, by mistake spoils its channel alone.
  """
  shown, agreeing = slope.sum(0), np.ones(len(sums), bool)
  for _ in range(_TRIMS):
    share = shown[agreeing] @ sums[agreeing] / (shown[agreeing] ** 2).sum()
    rest = np.abs(sums - share * shown)
    agreeing = rest <= _OUTLYING * np.median(rest)
  return float(share)


def _source(reader: Reader, moments: Moments | None, leaves: Leaves,
            update: Leaves) -> Source:
  """The equations of a kernel's gradient, from the ReLU behind the unit."""
  unit, known = reader.unit, reader.known
  return Source(
      unit.geometry,
      unit.cotangent(leaves, known.slope * known.on, moments),
      unit.kernel(update))


def _known(solved, slope, sums):
  found = active(solved.x, solved.sigma, slope, sums, solved.residual)
  value = np.where(found.on, np.maximum(solved.x, 0.0), 0.0)
  return Known(value, solved.sigma, slope, found.on), found


def _active_outputs(reader: Reader, moments: Moments | None, leaves: Leaves
                    ) -> Outputs:
  """The outputs of a unit where the ReLU behind it is on."""
  unit, known = reader.unit, reader.known
  kernel, (scale, shift) = unit.kernel(leaves), unit.affine(leaves, moments)
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
