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

from vidleak_jax.attacks.analytic.peeling import equations, top
from vidleak_jax.attacks.analytic.peeling.blocks import (
    Block,
    Leaves,
    Network,
    Unit,
    below,
)
from vidleak_jax.attacks.analytic.peeling.equations import Outputs, Source
from vidleak_jax.attacks.analytic.peeling.signs import active
from vidleak_jax.types import UserError

_MAX_ORDERS = 200  # of positions of the last block that are tried
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
  """What the last layer's gradient says."""
  feature: np.ndarray  # [F] the mean of the last block's output
  slope: np.ndarray    # [F] dL/d of it
  label: int


def read_head(network: Network, leaves: Leaves, update: Leaves) -> Head:
  """Returns the head's input, its slope and the label of one clip.

  Raises:
    UserError: the gradient of the head's bias is zero.
  """
  kernel, error = (update[path] for path in (
      network.head.kernel, network.head.bias))
  if not error.any():
    raise UserError('The gradient of the last bias is zero: nothing of the '
                    'clip is in it. Choose attack.name=ig.')
  feature = kernel @ error / (error @ error)
  weights = leaves[network.head.kernel]
  logits = feature @ weights + leaves[network.head.bias]
  # A clip that the network is sure of has no negative entry left.
  label = np.argmin(error) if error.min() < 0 else np.argmax(logits)
  return Head(feature, weights @ error, int(label))


def peel_top(network: Network, leaves: Leaves, update: Leaves
             ) -> tuple[Known, list[Row]]:
  """Returns what is known of the last block's input, and the report.

  Raises:
    UserError: its ReLUs cannot be told apart.
  """
  block, head = network.blocks[-1], read_head(network, leaves, update)
  unit = block.main[-1]
  positions = unit.geometry.num_out
  scale, _ = unit.affine(leaves)
  factor = head.slope * scale / positions
  factor = np.where(factor == 0, np.inf, factor)
  columns = unit.kernel(update) / factor
  slope = np.broadcast_to(head.slope / positions, (positions, unit.width))
  tried = []
  for on in itertools.islice(
      top.masks_of(columns, unit.geometry), _MAX_ORDERS):
    known, rows = peel(network, len(network.blocks) - 1,
                       Known(None, None, slope, on), leaves, update)
    tried.append((max(row.residual for row in rows), known, rows))
    if tried[-1][0] < _WRONG:
      break
  _, known, rows = min(tried, key=lambda each: each[0])
  return known, rows


def peel(network: Network, index: int, out: Known, leaves: Leaves,
         update: Leaves) -> tuple[Known, list[Row]]:
  """Returns what is known of a block's input, from its output.

  Args:
    network: the victim.
    index: of the block.
    out: its output.
    leaves: the parameters by path, float64.
    update: one clip's gradient by path, float64.

  Returns:
    (the input, a row for each layer solved, the upper first).
  """
  block, rows = network.blocks[index], []
  cotangent, inner = out.slope * out.on, None
  dz, known = cotangent * block.main[-1].affine(leaves)[0], None
  for unit, above in zip(block.main[-2::-1], block.main[:0:-1]):
    outputs = [_active_outputs(above, known, leaves)] if known else []
    solved = equations.solve(
        [Source(above.geometry, dz, above.kernel(update))], outputs)
    slope = above.geometry.pull_back(dz, above.kernel(leaves))
    known, found = _known(solved, slope, unit.sums(update))
    rows.append(_row(above.name, [above], solved, found))
    inner = inner or known  # the input of the last unit
    dz = slope * known.on * unit.affine(leaves)[0]
  first = block.main[0]
  solved, slope = _solve_input(block, out, inner, known, dz, leaves, update)
  unit = below(network, index)
  known, found = _known(solved, slope, unit and unit.sums(update))
  rows.append(_row(first.name, block.first_units, solved, found))
  return known, rows


def _solve_input(block: Block, out: Known, inner: Known | None,
                 known: Known | None, dz: np.ndarray, leaves: Leaves,
                 update: Leaves) -> tuple[equations.Solved, np.ndarray]:
  """(the block's input before its ReLUs are settled, dL/d of it)."""
  first, last, shortcut = block.main[0], block.main[-1], block.shortcut
  sources = [Source(first.geometry, dz, first.kernel(update))]
  slope = first.geometry.pull_back(dz, first.kernel(leaves))
  outputs = [_active_outputs(first, known, leaves)] if known else []
  skipped = None  # what the shortcut answers where the block's output is on
  if out.value is not None and inner is not None:
    scale, shift = last.affine(leaves)
    branch = last.geometry.forward(inner.value, last.kernel(leaves))
    skipped = out._replace(value=out.value - branch * scale - shift)
  cotangent = out.slope * out.on
  if shortcut:
    dzs = cotangent * shortcut.affine(leaves)[0]
    sources.append(Source(shortcut.geometry, dzs, shortcut.kernel(update)))
    slope = slope + shortcut.geometry.pull_back(dzs, shortcut.kernel(leaves))
    if skipped:
      outputs.append(_active_outputs(shortcut, skipped, leaves))
  else:
    slope = slope + cotangent
  solved = equations.solve(sources, outputs)
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
  return Row(
      name, units[0].geometry.num_in, sum(u.num_rows for u in units),
      solved.rank, solved.condition, solved.residual, solved.steps,
      found.num_toggled, found.num_doubtful)
