"""The input of a pre-activation block (1603.05027).

Block `y = x + conv2 a2`, `a2 = relu(n2(conv1 a))`, `a = relu(n1(x))`. There is
no ReLU behind the sum, so dL/d of conv2's output is dL/dy as it is. Where y is
known x follows by subtraction; elsewhere a, from conv1's gradient, tells x
where it is on. So more of the sums is known from block to block, from none
above the last one. What x is where a is off enters nothing below.

  dL/dx = dL/dy + n1'(x) [a > 0] dL/da
"""

import numpy as np

from vidleak_jax.attacks.analytic.peeling import branch, facts, inputs
from vidleak_jax.attacks.analytic.peeling import readers as readers_lib
from vidleak_jax.attacks.analytic.peeling.blocks import Block
from vidleak_jax.attacks.analytic.peeling.readers import Known, Reader
from vidleak_jax.attacks.analytic.peeling.units import Entry, Leaves
from vidleak_jax.victims.introspection.graph import LayerGraph


def peel_input(block: Block, out: Known, inner: Known, known: Known,
               leaves: Leaves, update: Leaves) -> tuple[Known, branch.Row]:
  """Returns what is known of the sum that a block reads, and the report.

  Args:
    block: a pre-activation block.
    out: the sum that it answers.
    inner: the input of the last unit.
    known: the output of the ReLU behind the first unit.
    leaves: the parameters by path, float64.
    update: the mean gradient of the clips by path, float64.

  Raises:
    equations.Undetermined: the equations do not suffice.
    UserError: they disagree.
  """
  first, shortcut, entry = block.main[0], block.shortcut, block.entry
  beside = None  # what the shortcut answers, where the sum is known
  if out.value is not None:
    beside = out._replace(
        value=out.value - readers_lib.branch(block.main[-1], inner, leaves))
  readers = [Reader(first, known, True)]
  if shortcut and block.activated:
    readers.append(Reader(shortcut, beside or out, beside is not None))
  sums = entry.sums(update)
  _, solved, slope = inputs.solve(readers, sums, leaves, update)
  scale, shift = entry.affine(leaves)
  if beside and not shortcut:
    solved = solved._replace(
        x=np.where(out.certain, beside.value * scale + shift, solved.x),
        sigma=np.where(out.certain, np.abs(scale) * out.sigma, solved.sigma))
  read, found = inputs.settled(solved, slope, sums)
  row = branch.row_of(first.name, block.first_units, solved, found)
  return _before(entry, leaves, read, slope * scale,
                 None if shortcut else beside, _past(block, out, leaves)), row


def of_sum(graph: LayerGraph, entry: Entry, known: Known, leaves: Leaves
           ) -> facts.Outputs:
  """Returns what is known of a sum, as of what the ReLU behind it sees."""
  scale, shift = entry.affine(leaves)
  value = known.value * scale + shift
  bound = facts.DOUBT * value[known.certain].max()
  return facts.Outputs(graph.by_name[entry.relu].inputs[0],
                       np.where(known.certain, value, bound), known.certain)


def _past(block, out, leaves):
  """dL/dx past the main branch."""
  if block.activated:
    return np.zeros((block.main[0].geometry.num_in, block.main[0].width_in))
  if block.shortcut is None:
    return out.cotangent
  return block.shortcut.geometry.pull_back(
      block.shortcut.cotangent(leaves, out.cotangent),
      block.shortcut.kernel(leaves))


def _before(entry, leaves, read, slope, beside, past) -> Known:
  """What is known of x, from `relu(n(x))` and where the identity shows it."""
  scale, shift = entry.affine(leaves)
  divisor = np.where(scale == 0, np.inf, scale)
  seen = facts.clear(read.value, read.on) & (scale != 0)
  value = np.where(seen, (read.value - shift) / divisor, 0.0)
  sigma = read.sigma / np.abs(divisor)
  if beside:
    value = np.where(beside.certain, beside.value, value)
    sigma = np.where(beside.certain, beside.sigma, sigma)
    seen = seen | beside.certain
  size = np.sqrt(np.mean(sigma[seen] ** 2))
  return Known(value, np.full(value.shape, size), slope, read.on, past, seen)
