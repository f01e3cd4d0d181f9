"""Which networks can be peeled: their residual blocks, from the layer graph."""

import dataclasses
import itertools
import math

import jax.numpy as jnp
import numpy as np

from vidleak_jax.attacks.analytic.peeling.blocks import Block, Network
from vidleak_jax.attacks.analytic.peeling.geometry import Geometry
from vidleak_jax.attacks.analytic.peeling.units import Entry, Unit
from vidleak_jax.types import UserError
from vidleak_jax.victims.introspection import operations as ops
from vidleak_jax.victims.introspection import structure
from vidleak_jax.victims.introspection.graph import Head, LayerGraph, Node

_FORMS = 'fixed', 'group', 'batch'  # of norms


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
  blocks = tuple(_block(graph, block, num_clips) for block in found)
  axis = _channel_axis(blocks)
  head, closing = _end(graph, blocks[-1], axis)
  for lower, upper in itertools.pairwise(blocks):
    if upper.source != lower.output:
      raise UserError(f'between {lower.output} and {upper.source} stands '
                      'something that is no residual block')
  first = graph.by_name[blocks[0].source]
  if not closing and not is_relu(first):
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
                 num_clips, closing, axis)


def _channel_axis(blocks: tuple[Block, ...]) -> int:
  """Of the outputs of all units; negative."""
  axes = {axis_of(unit.conv) for block in blocks for unit in block.units}
  if len(axes) > 1:
    raise UserError('its convolutions do not agree on the axis of channels')
  return axes.pop()


def axis_of(conv: ops.Conv) -> int:
  """Returns the axis of the channels in a convolution's output; negative."""
  out = conv.dimension_numbers.out_spec
  return out[1] - len(out)


def _end(graph: LayerGraph, last: Block, axis: int
         ) -> tuple[Head, Entry | None]:
  """The head, and what stands between a pre-activation block and the mean."""
  head = graph.head
  tail = structure.tail(graph)
  if head is None or head.bias is None or len(tail) != 1:
    raise UserError('it does not end in a mean over positions and one dense '
                    'layer with a bias')
  before, output, closing = tail[0].before, last.output, None
  if last.entry:
    closing = _entry(before[:2], f'the last block, {last.name},')
    before, output = before[2:], closing.relu
  if any(node.paths for node in before):
    raise UserError('it does not end in a mean over positions and one dense '
                    'layer with a bias')
  shape = graph.by_name[output].shape
  if len(shape) == len(last.main[-1].conv.window) + 1:
    shape = (1, *shape)  # else a 2-D network's frames are its batch
  x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
  pooled = structure.apply(before, {}, jnp.asarray(x))
  mean = np.moveaxis(x, axis, -1).reshape(-1, shape[axis]).mean(0)[None]
  if pooled.shape != mean.shape or not np.allclose(pooled, mean, atol=1e-4):
    raise UserError('what stands before the head is not the mean over all '
                    'positions')
  return head, closing


def _block(graph: LayerGraph, block: structure.Block, num_clips: int) -> Block:
  name = block.main[0].name if block.main else block.add.name
  if block.activation is not None and not is_relu(block.activation):
    raise UserError(f'the block of {name} does not end in a ReLU')
  if not block.main or len(block.shortcut) > 1:
    raise UserError(f'a branch of the block of {name} is not understood')
  for unit in block.main[:-1]:
    if unit.activation is None or not is_relu(unit.activation):
      raise UserError(f'{unit.name} is not followed by a ReLU')
  last = (block.main[-1], *block.shortcut)
  if any(unit.activation is not None for unit in last):
    raise UserError(f'the sum of the block of {name} is of activations')
  shortcut = (unit_of(graph, block.shortcut[0], num_clips)
              if block.shortcut else None)
  first, *rest = block.main
  if block.activation is not None:
    main = tuple(unit_of(graph, unit, num_clips) for unit in block.main)
    return Block(block.source, main, shortcut, block.output)
  before, activated = first.before, not first.before
  if activated:  # both branches read the ReLU
    relu = graph.by_name[block.source]
    before = (*(graph.by_name[name] for name in relu.inputs), relu)
  entry = _entry(before, f'the block of {name}')
  if not rest or (activated and not shortcut):
    raise UserError(f'the block of {name} has no second convolution, or adds '
                    'its first activation')
  units = dataclasses.replace(first, before=()), *rest
  main = tuple(unit_of(graph, unit, num_clips) for unit in units)
  if not all(unit.is_affine for unit in (*main, shortcut or main[0])):
    raise UserError(f'norms of the data stand in the pre-activation block of '
                    f'{name}')
  return Block(before[0].inputs[0], main, shortcut, block.output, entry,
               activated)


def _entry(before: tuple[Node, ...], where: str) -> Entry:
  """The norm and the ReLU that stand before or behind a block."""
  if len(before) != 2 or not is_relu(before[1]) or not (
      isinstance(before[0].op, ops.Norm) and before[0].op.form == 'fixed'):
    raise UserError(
        f'{where} does not end in a ReLU, and no norm of running statistics '
        'and ReLU stand where a pre-activation network has them')
  return Entry(before[0].op, before[1].name)


def unit_of(graph: LayerGraph, unit: structure.Unit, num_clips: int,
            alone: bool = True) -> Unit:
  """Returns a convolution with its norm as layer peeling reads it.

  Args:
    graph: all layers.
    unit: the convolution.
    num_clips: an axis in front of its positions.
    alone: whether nothing may stand before it.

  Raises:
    UserError: it is no such convolution; says why.
  """
  node = unit.linear
  if node is None or not isinstance(node.op, ops.Conv):
    raise UserError(f'{unit.nodes[0].name} is no convolution')
  if unit.before and alone:
    raise UserError(f'{unit.before[0].name} ({unit.before[0].kind}) stands '
                    f'before {node.name}')
  conv, ndim = node.op, len(node.op.window)
  if conv.groups != 1 or any(d != 1 for d in conv.input_dilation):
    raise UserError(f'{node.name} is grouped or transposed')
  layout = conv.dimension_numbers
  axis = layout.lhs_spec[1]
  if layout.lhs_spec != layout.out_spec or layout.lhs_spec not in (
      (0, ndim + 1, *range(1, ndim + 1)), tuple(range(ndim + 2))):
    raise UserError(f'{node.name} has its channels neither last nor first')
  if conv.kernel_path is None or not _is_stored_last(
      conv, graph.leaf_shapes[conv.kernel_path]):
    raise UserError(f'the kernel of {node.name} is computed, or stored in '
                    'another order than [window, inputs, outputs]')
  norm = _norm(unit.norm, axis) if unit.norm else None
  if norm and norm.form == 'group' and len(node.shape) > ndim + 1:
    raise UserError(f'{unit.norm.name} is a norm of single frames')
  # Clips, and a 2-D network's frames, are axes in front that no tap crosses.
  shape, axis = graph.by_name[node.inputs[0]].shape, axis_of(conv)
  positions = list(shape)
  del positions[axis]
  in_shape = (num_clips, *positions)
  extra = len(in_shape) - ndim
  ones = (1,) * extra
  return Unit(node.name, conv, norm, Geometry(
      in_shape, ones + conv.window, ones + conv.strides,
      ((0, 0),) * extra + conv.padding, ones + conv.dilation),
              shape[axis], node.shape[axis], node.inputs[0],
              (unit.norm or node).name)


def _is_stored_last(conv: ops.Conv, shape: tuple[int, ...]) -> bool:
  """Whether a kernel's leaf [*window, inputs, outputs] is used as it is."""
  spec = conv.dimension_numbers.rhs_spec
  stored = (*spec[2:], spec[1], spec[0])
  if not conv.kernel.equations:
    return stored == tuple(range(len(shape)))
  numbers = jnp.arange(math.prod(shape)).reshape(shape)
  used = conv.kernel({conv.kernel_path: numbers}).transpose(stored)
  return used.shape == shape and bool((used == numbers).all())


def _norm(node: Node, axis: int) -> ops.Norm:
  """The norm as of an array with its channels last, from one at `axis`."""
  norm = node.op
  if not isinstance(norm, ops.Norm) or norm.form not in _FORMS or (
      norm.form != 'fixed' and not (
          norm.scale and norm.bias and norm.channel_axis == axis)):
    form = norm.form if isinstance(norm, ops.Norm) else norm.kind
    raise UserError(f'{node.name} is a norm of the form {form}; it must '
                    f'be one of {", ".join(_FORMS)}, with a scale and a bias')
  if norm.form == 'fixed':
    return norm
  last = len(node.shape)
  order = [*(i for i in range(last + 1) if i != axis), axis]
  return dataclasses.replace(
      norm, channel_axis=last,
      axes=tuple(sorted(order.index(a) for a in norm.axes)))


def _stem(graph: LayerGraph, num_clips: int) -> Unit | None:
  """The last unit of the stem, where its norm's bias tells sums."""
  try:
    return unit_of(graph, structure.stem(graph)[-1], num_clips, alone=False)
  except UserError:
    return None


def is_relu(node: Node) -> bool:
  """Whether a node is a ReLU."""
  return isinstance(node.op, ops.Activation) and node.op.name == 'relu'
