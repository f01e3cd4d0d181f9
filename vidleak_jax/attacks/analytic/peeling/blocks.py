"""Which networks can be peeled: their residual blocks, from the layer graph."""

import dataclasses
import itertools

import jax.numpy as jnp
import numpy as np

from vidleak_jax.attacks.analytic.peeling.equations import SURPLUS
from vidleak_jax.attacks.analytic.peeling.geometry import (
    Geometry,
    rank_bound,
)
from vidleak_jax.attacks.analytic.peeling.units import Unit
from vidleak_jax.types import UserError
from vidleak_jax.victims.introspection import operations as ops
from vidleak_jax.victims.introspection import structure
from vidleak_jax.victims.introspection.graph import Head, LayerGraph, Node

# Of norms. With the batch's statistics a strided layer answers the same for
# inputs that differ by a constant in all its windows.
_FORMS = 'fixed', 'group'


@dataclasses.dataclass(frozen=True, eq=False)
class Block:
  """`relu(main(x) + shortcut(x))`; a ReLU between the units of `main`.

  Attributes:
    source: name of the node that answers x.
    main: its units in order.
    shortcut: its unit; None where it is the identity.
    output: name of the node that answers the block's output.
  """
  source: str
  main: tuple[Unit, ...]
  shortcut: Unit | None
  output: str

  @property
  def name(self) -> str:
    return self.main[0].name.split('/')[0]

  @property
  def first_units(self) -> tuple[Unit, ...]:
    """The units that read the block's input."""
    return self.main[:1] + ((self.shortcut,) if self.shortcut else ())

  @property
  def num_solvable(self) -> int:
    """Units, from the last, whose inputs are determined, by count."""
    for count, unit in enumerate(self.main[:0:-1]):
      # Of the last unit's output only the sum with the shortcut's is known.
      if not _is_determined((unit,), has_outputs=count > 0):
        return count
    return len(self.main) - (not _is_determined(
        self.first_units, has_outputs=len(self.main) > 1))

  @property
  def solvable(self) -> bool:
    """Whether all of the block's unknowns are determined, by count."""
    return self.num_solvable == len(self.main)

  @property
  def num_shown(self) -> int:
    """Equations that a block that is not solvable has, by count."""
    count = self.num_solvable
    next_one = (self.main[-1 - count],) if count < len(self.main) - 1 else (
        self.first_units)
    known = self.main[-1:] + (self.main[-1 - count:-count] if count else ())
    outputs = sum(unit.geometry.num_out * unit.width for unit in known)
    return outputs // 2 + rank_of(next_one) * next_one[0].width_in


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
  """A stem, residual blocks, the mean over all positions, a dense head.

  Attributes:
    graph: all its layers.
    blocks: first to last.
    num_peeled: blocks, counted from the last, that are solved one by one.
    stem: the last unit before the first block, or None.
    head: its kernel [F, K] and bias [K].
    num_clips: in the batch; the first axis of all geometries.
  """
  graph: LayerGraph
  blocks: tuple[Block, ...]
  num_peeled: int
  stem: Unit | None
  head: Head
  num_clips: int = 1

  @property
  def bottom(self) -> str:
    """Name of the node whose output the solved blocks end with."""
    return self.blocks[-self.num_peeled].source


def blocks_of(graph: LayerGraph | None, num_clips: int = 1) -> Network:
  """Returns the network as residual blocks.

  Args:
    graph: its layers.
    num_clips: in the batch whose gradient is to be read; they are so many
      positions more, which no tap connects.

  Raises:
    UserError: it is no such network; says why.
  """
  if graph is None:
    raise UserError('only its loss is known, not its logits')
  found = structure.blocks(graph)
  if not found:
    raise UserError('the network has no residual blocks')
  head = _head(graph, found[-1].output)
  blocks = tuple(_block(graph, block, num_clips) for block in found)
  for lower, upper in itertools.pairwise(blocks):
    if upper.source != lower.output:
      raise UserError(f'between {lower.output} and {upper.source} stands '
                      'something that is no residual block')
  first = graph.by_name[blocks[0].source]
  if not _is_relu(first):
    raise UserError(f'{first.name} in front of the first block is {first.kind}'
                    ', not a ReLU')
  peeled = 0
  while peeled < len(blocks) and blocks[-1 - peeled].solvable:
    peeled += 1
  if not peeled:
    last = blocks[-1]
    raise UserError(
        f'the kernels of {last.name} have fewer gradients a channel than '
        f'{last.main[-1].geometry.num_in} positions')
  return Network(graph, blocks, peeled, _stem(graph, num_clips), head,
                 num_clips)


def rank_of(units: tuple[Unit, ...]) -> int:
  """Returns what the rank of kernels that read one input is at most."""
  return rank_bound([(unit.geometry, unit.width) for unit in units])


def below(network: Network, index: int) -> Unit | None:
  """Returns the unit whose ReLU answers the input of a block."""
  return network.blocks[index - 1].main[-1] if index else network.stem


def _is_determined(units: tuple[Unit, ...], has_outputs: bool) -> bool:
  """Whether kernels and known outputs suffice; half of the ReLUs are on."""
  first = units[0]
  left = (first.geometry.num_in - rank_of(units)) * first.width_in
  outputs = sum(unit.geometry.num_out * unit.width for unit in units)
  return SURPLUS * left <= has_outputs * outputs / 2


def _head(graph, output) -> Head:
  head = graph.head
  tail = structure.tail(graph)
  if head is None or head.bias is None or len(tail) != 1 or any(
      node.paths for node in tail[0].before):
    raise UserError('it does not end in a mean over positions and one dense '
                    'layer with a bias')
  shape = graph.by_name[output].shape
  x = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
  pooled = structure.apply(tail[0].before, {}, jnp.asarray(x))
  mean = x.mean(tuple(range(1, len(shape))))
  if pooled.shape != mean.shape or not np.allclose(pooled, mean, atol=1e-4):
    raise UserError('what stands before the head is not the mean over all '
                    'positions')
  return head


def _block(graph: LayerGraph, block: structure.Block, num_clips: int) -> Block:
  name = block.main[0].name if block.main else block.add.name
  if block.activation is None or not _is_relu(block.activation):
    raise UserError(f'the block of {name} does not end in a ReLU')
  main = tuple(_unit(graph, unit, num_clips) for unit in block.main)
  if not main or len(block.shortcut) > 1:
    raise UserError(f'a branch of the block of {name} is not understood')
  for unit in block.main[:-1]:
    if unit.activation is None or not _is_relu(unit.activation):
      raise UserError(f'{unit.name} is not followed by a ReLU')
  last = (block.main[-1], *block.shortcut)
  if any(unit.activation is not None for unit in last):
    raise UserError(f'the sum of the block of {name} is of activations')
  shortcut = (_unit(graph, block.shortcut[0], num_clips)
              if block.shortcut else None)
  return Block(block.source, main, shortcut, block.output)


def _unit(graph: LayerGraph, unit: structure.Unit, num_clips: int,
          alone: bool = True) -> Unit:
  node = unit.linear
  if node is None or not isinstance(node.op, ops.Conv):
    raise UserError(f'{unit.nodes[0].name} is no convolution')
  if unit.before and alone:
    raise UserError(f'{unit.before[0].name} ({unit.before[0].kind}) stands '
                    f'before {node.name}')
  conv, ndim = node.op, len(node.op.window)
  last = tuple(range(1, ndim + 1))
  layout = conv.dimension_numbers
  if conv.groups != 1 or any(d != 1 for d in conv.input_dilation):
    raise UserError(f'{node.name} is grouped or transposed')
  if (layout.lhs_spec != (0, ndim + 1, *last) or layout.out_spec != (
      0, ndim + 1, *last) or layout.rhs_spec != (ndim + 1, ndim, *range(ndim))):
    raise UserError(f'{node.name} does not have its channels last')
  if conv.kernel_path is None:
    raise UserError(f'the kernel of {node.name} is computed')
  norm = unit.norm.op if unit.norm else None
  if norm is not None and not (
      isinstance(norm, ops.Norm) and norm.form in _FORMS
      and (norm.form == 'fixed' or (
          norm.scale and norm.bias
          and norm.channel_axis == len(node.shape)))):
    form = norm.form if isinstance(norm, ops.Norm) else norm.kind
    raise UserError(f'{unit.norm.name} is a norm of the form {form}; it must '
                    f'be one of {", ".join(_FORMS)}, with channels last, a '
                    'scale and a bias')
  # Clips, and a 2-D network's frames, are axes in front that no tap crosses.
  in_shape = (num_clips, *graph.by_name[node.inputs[0]].shape[:-1])
  extra = len(in_shape) - ndim
  ones = (1,) * extra
  return Unit(node.name, conv, norm, Geometry(
      in_shape, ones + conv.window, ones + conv.strides,
      ((0, 0),) * extra + conv.padding, ones + conv.dilation),
              graph.leaf_shapes[conv.kernel_path][-2], node.shape[-1],
              node.inputs[0], (unit.norm or node).name)


def _stem(graph: LayerGraph, num_clips: int) -> Unit | None:
  """The last unit of the stem, where its norm's bias tells sums."""
  try:
    return _unit(graph, structure.stem(graph)[-1], num_clips, alone=False)
  except UserError:
    return None


def _is_relu(node: Node) -> bool:
  return isinstance(node.op, ops.Activation) and node.op.name == 'relu'
