"""From the head to the input of a network's first solvable block.

Block `a = relu(n1(conv1 x))`, `y = relu(n2(conv2 a) + skip(x))`, from y and
dL/dy: the mask y > 0 gives dL/d of conv2's output; conv2's gradient is linear
in a; its mask gives dL/d of conv1's output, and conv1's gradient gives x; both
branches pulled back give dL/dx. Least squares only, without steps on pixels.
Norms of the data's own statistics make it a few rounds of least squares.
Pre-activation blocks differ at their input, see `preactive`.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from vidleak_jax.attacks.analytic.head_unmixing import unmix_head
from vidleak_jax.attacks.analytic.peeling import (
    branch,
    equations,
    facts,
    inputs,
    preactive,
    top,
)
from vidleak_jax.attacks.analytic.peeling import readers as readers_lib
from vidleak_jax.attacks.analytic.peeling.blocks import Block, Network, below
from vidleak_jax.attacks.analytic.peeling.branch import Row
from vidleak_jax.attacks.analytic.peeling.lower import Lower
from vidleak_jax.attacks.analytic.peeling.pixels import Part
from vidleak_jax.attacks.analytic.peeling.readers import Known, Reader
from vidleak_jax.attacks.analytic.peeling.units import Leaves, Unit
from vidleak_jax.types import UserError

_MAX_ORDERS = 200  # of positions of the last block that are tried
_ROOT_MEAN_SQUARE = 0.7  # of a ReLU's output behind a norm


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
  unit = network.top
  slopes = read_head(network, leaves, update).slopes
  slopes = slopes * network.num_clips / unit.geometry.num_out
  slope = np.repeat(slopes, unit.geometry.num_out // len(slopes), axis=0)
  if network.closing:  # its norm is no part of the block
    slope = slope * unit.affine(leaves)[0]
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
  x, dz = top.factors(unit.kernel(update), unit.geometry, unit.is_centred)
  # The variance that a norm adds counts against that of x as it is, about.
  share = _ROOT_MEAN_SQUARE / np.sqrt(np.mean(x ** 2))
  shown = unit.shown_slope(leaves, update, dz / share, unit.moments(
      unit.geometry.forward(share * x, unit.kernel(leaves))))
  full = unit.gamma(leaves) * slopes
  yield top.rounded(shown / np.where(full == 0, np.inf, full))


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
  out, inner, known, rows = branch.peel(
      block, out, len(block.main) - 1, leaves, update)
  if block.entry:
    known, row = preactive.peel_input(block, out, inner, known, leaves, update)
    return known, [*rows, row]
  first, last, shortcut = block.main[0], block.main[-1], block.shortcut
  unit = below(network, index)
  sums = unit and unit.sums(update)
  skipped = None  # what the shortcut answers where the block's output is on
  if out.value is not None and inner is not None:
    skipped = out._replace(
        value=out.value - readers_lib.branch(last, inner, leaves))
  readers = [Reader(first, known, inner is not None)]
  beside = np.zeros((first.geometry.num_in, first.width_in))
  if shortcut:
    readers.append(Reader(shortcut, skipped or out, skipped is not None))
  else:
    beside = out.slope * out.on
  _, solved, slope = inputs.solve(readers, sums, leaves, update, beside)
  if skipped and not shortcut:  # the identity shows the input as it is
    sigma = np.sqrt(np.mean(out.sigma ** 2)) + np.zeros_like(solved.sigma)
    solved = solved._replace(
        x=np.where(out.certain, skipped.value, solved.x),
        sigma=np.where(out.certain, sigma, solved.sigma))
  known, found = inputs.settled(
      solved, slope, sums, readers_lib.hidden_from(readers))
  rows.append(branch.row_of(first.name, block.first_units, solved, found))
  return known, rows


def peel_partly(network: Network, index: int, out: Known, leaves: Leaves,
                update: Leaves) -> tuple[Part, list[Row]]:
  """Returns what is known below a block's output where it is not solvable.

  Args:
    network: the victim.
    index: of the block.
    out: its output.
    leaves: the parameters by path, float64.
    update: one clip's gradient by path, float64.

  Returns:
    (what is known of it and below, a row for each layer solved).

  Raises:
    UserError: the equations disagree.
  """
  block = network.blocks[index]
  count = min(block.num_solvable, len(block.main) - 1)
  unit = block.main[-1 - count]
  units = block.first_units if count == len(block.main) - 1 else (unit,)
  out, inner, known, rows = branch.peel(block, out, count, leaves, update)
  found = _facts(network, index, count, out, inner, known, leaves)
  if not all(each.is_affine for each in units):
    return Part(tuple(found), leaves), rows  # moments are open: no equations
  shown = equations.shown([
      readers_lib.source(Reader(each, behind, False), None, leaves, update)
      for each, behind in zip(units, (known, out))])
  found.append(facts.Shown(unit.source, shown.basis, shown.value))
  branch.check(unit.name, shown.residual)
  rows.append(Row(unit.name, unit.geometry.num_in,
                  sum(each.num_rows for each in units),
                  shown.basis.shape[1], shown.condition, shown.residual, 0, 0,
                  0))
  cotangents = None if block.entry else _cotangents(
      network, block, units, known, out, leaves)
  return Part(tuple(found), leaves, cotangents and Lower(
      cotangents, update)), rows


def _cotangents(network: Network, block: Block, units: Sequence[Unit],
                known: Known, out: Known, leaves: Leaves
                ) -> dict[str, np.ndarray]:
  """dL/d of the nodes that unsolved units, and the shortcut, read."""
  readers = [Reader(units[0], known, False)]
  if block.shortcut:
    readers.append(Reader(block.shortcut, out, False))
  found = [(reader.unit, readers_lib.pulled(reader, leaves))
           for reader in readers]
  if not block.shortcut:  # the identity
    found.append((block.main[0], out.slope * out.on))
  cotangents: dict[str, np.ndarray] = {}
  for unit, slope in found:
    cotangents[unit.source] = cotangents.get(unit.source, 0.0) + _shaped(
        network, unit, slope)
  return cotangents


def _shaped(network: Network, unit: Unit, slope: np.ndarray) -> np.ndarray:
  """dL/d of a unit's input as the network has it."""
  return np.moveaxis(slope.reshape(*unit.geometry.in_shape, unit.width_in), -1,
                     network.channel_axis)


def outputs(network: Network, known: Known, leaves: Leaves, update: Leaves
            ) -> Part:
  """Returns what is known of the input of the lowest block that is solved."""
  block = network.blocks[-network.num_peeled]
  if block.entry:
    return Part((preactive.of_sum(network.graph, block.entry, known, leaves),),
                leaves)
  shown = facts.of_relu(network.graph, network.bottom, known.value, known.on,
                        known.certain)
  return Part((shown,), leaves, Lower(
      {network.bottom: _shaped(network, block.main[0], known.slope)}, update))


def _facts(network, index, count, out, inner, known, leaves
           ) -> list[facts.Fact]:
  """What the outputs of a block's units say, the last `count` inputs solved."""
  graph, block = network.graph, network.blocks[index]
  source = block.shortcut.output if block.shortcut else block.source
  if block.entry:
    found = [preactive.of_sum(graph, network.blocks[index + 1].entry, out,
                              leaves)]
  elif inner is None:
    found = [facts.of_relu(graph, block.output, out.value, out.on,
                           out.certain)]
  else:  # what is left of the output once the main branch is known
    found = [facts.of_sum(
        source, out.value, out.on, out.certain, readers_lib.branch(
            block.main[-1], inner, leaves))]
  if inner is not None:
    found.append(facts.of_relu(graph, block.main[-count].source, known.value,
                               known.on, known.certain))
  if inner is not None and block.entry:
    beside = readers_lib.branch(block.main[-1], inner, leaves)
    found.append(facts.Outputs(source, np.where(
        out.certain, out.value - beside, np.inf), out.certain))
  return found
