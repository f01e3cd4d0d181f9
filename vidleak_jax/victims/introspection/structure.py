"""Chains of layers and residual blocks in a layer graph."""

import dataclasses
import math

import jax.numpy as jnp

from vidleak_jax.types import Array, Layer, UserError
from vidleak_jax.victims.introspection import operations as ops
from vidleak_jax.victims.introspection.graph import LayerGraph, Node
from vidleak_jax.victims.introspection.tracing import Leaves

# Of a unit's nodes after its layer; a frozen norm is but a scale and a shift.
_AFTER = ('norm', ('norm', 'affine')), ('activation', ('activation',))


@dataclasses.dataclass(frozen=True, eq=False)
class Unit:
  """A dense layer or a convolution with what stands around it.

  Attributes:
    before: nodes between the layer before and this one: moves, pooling, scales,
      and norm and activation where these come first.
    linear: the dense or conv node; None of a shortcut without parameters.
    norm: directly after it, a norm or an affine node, or None.
    activation: after these, or None.
  """
  before: tuple[Node, ...]
  linear: Node | None
  norm: Node | None = None
  activation: Node | None = None

  @property
  def name(self) -> str:
    return self.linear.name if self.linear else 'identity'

  @property
  def nodes(self) -> tuple[Node, ...]:
    """All its nodes, in order."""
    after = (self.linear, self.norm, self.activation)
    return self.before + tuple(node for node in after if node is not None)

  def __call__(self, leaves: Leaves, x: Array) -> Array:
    """The unit's output from its input, both with the batch axis."""
    return apply(self.nodes, leaves, x)


@dataclasses.dataclass(frozen=True, eq=False)
class Block:
  """`output = activation(main(input) + shortcut(input))`.

  Attributes:
    source: name of the node whose output both branches read.
    main: the branch with more layers.
    shortcut: units of the other; none where it is the identity.
    add: the node that sums both.
    activation: directly after the sum, or None (pre-activation networks).
  """
  source: str
  main: tuple[Unit, ...]
  shortcut: tuple[Unit, ...]
  add: Node
  activation: Node | None

  @property
  def output(self) -> str:
    """Name of the node that answers the block's output."""
    return (self.activation or self.add).name


def apply(nodes: tuple[Node, ...], leaves: Leaves, x: Array) -> Array:
  """Nodes of one input each, one after the other."""
  for node in nodes:
    x = node.op(leaves, x)
  return x


def chain(graph: LayerGraph) -> tuple[Unit, ...]:
  """The network as units from the clip to the logits.

  Raises:
    UserError: it is no plain chain; says at which node it stops being one.
  """
  for node in graph.nodes[:-1]:
    if len(graph.consumers[node.name]) > 1:
      raise UserError(
          f'The network is no chain of layers: {node.name} is read by '
          f'{_listed(graph.consumers[node.name])}. Choose an attack for '
          'residual networks, or one that needs no chain.')
  for node in graph.nodes[1:]:
    if len(node.inputs) > 1:  # one value read twice
      raise UserError(
          f'The network is no chain of layers: {node.name} reads '
          f'{", ".join(node.inputs)}. Choose an attack that needs no chain.')
    if isinstance(node.op, (ops.Attention, ops.Recurrent, ops.Softmax,
                            ops.Opaque)):
      raise UserError(
          f'The network is no chain of known layers: {node.name} is '
          f'{node.kind}. Choose an attack that needs no chain.')
  return units(graph.nodes[1:])


def layers(graph: LayerGraph) -> tuple[Layer, ...]:
  """The chain as `activation(linear(kernel, x) + bias)`, for layer peeling.

  A layer's name is its kernel's path without the last word, joined by '/'; its
  `linear` takes the kernel as it stands in the params, and includes all moves
  since the layer before. Its inputs and outputs have their channels last,
  whatever the network has.

  Raises:
    UserError: no chain, or one with norms, pooling or scales between, or a
      dense layer that reads features in another order than channels last.
  """
  found, axis = [], -1  # of the channels that the layer before puts out
  for unit in chain(graph):
    found.append(_layer(graph, unit, axis))
    axis = _channels(unit.linear)
  return tuple(found)


def _channels(node):
  """Axis of the channels in a layer's output."""
  return (node.op.dimension_numbers.out_spec[1]
          if isinstance(node.op, ops.Conv) else -1)


def units(nodes: tuple[Node, ...]) -> tuple[Unit, ...]:
  """Nodes in a row as units; nodes after the last layer end up in one more."""
  found, before, i = [], [], 0
  while i < len(nodes):
    if nodes[i].kind not in ('dense', 'conv'):
      before.append(nodes[i])
      i += 1
      continue
    linear, after = nodes[i], {}
    for slot, kinds in _AFTER:
      if i + 1 < len(nodes) and nodes[i + 1].kind in kinds:
        after[slot] = nodes[i + 1]
        i += 1
    found.append(Unit(tuple(before), linear, **after))
    before, i = [], i + 1
  if before:
    found.append(Unit(tuple(before), None))
  return tuple(found)


def blocks(graph: LayerGraph) -> tuple[Block, ...]:
  """The residual blocks in order, those of a transformer included.

  A sum whose branches are no chains, or fork before the clip, is none.
  """
  found = []
  for node in graph.of_kind('add'):
    branches = _branches(graph, node)
    if branches is None:
      continue
    source, first, second = branches
    if _weight(first) < _weight(second):
      first, second = second, first
    readers = graph.consumers[node.name]
    activation = readers[0] if len(readers) == 1 and (
        readers[0].kind == 'activation') else None
    found.append(
        Block(source, units(first), units(second), node, activation))
  return tuple(found)


def stem(graph: LayerGraph) -> tuple[Unit, ...]:
  """The units from the clip to the first residual block.

  Raises:
    UserError: there is no block, or the way to it is no chain.
  """
  found = blocks(graph)
  if not found:
    raise UserError('The network has no residual block. Choose an attack for '
                    'chains of layers, or one that needs no layers.')
  row = _row(graph, found[0].source, graph.nodes[0].name)
  if row is None:
    raise UserError(f'The network forks before {found[0].source}. Choose an '
                    'attack that needs no residual blocks.')
  return units(row)


def tail(graph: LayerGraph) -> tuple[Unit, ...]:
  """The units from the last residual block to the logits, pooling included.

  Raises:
    UserError: there is no block, or the way from it is no chain.
  """
  found = blocks(graph)
  row = found and _row(graph, graph.output, found[-1].output)
  if not row:
    raise UserError('The network does not end in a residual block and a chain. '
                    'Choose an attack that needs no residual blocks.')
  return units(row)


def _branches(graph, node):
  """(source, nodes of one branch, of the other), or None."""
  rows = []
  for name in node.inputs:
    row = []
    while True:
      row.append(name)
      inputs = _main_inputs(graph, name)
      if inputs is None:
        break
      name = inputs
    rows.append(row)
  common = [name for name in rows[0] if name in rows[1]]
  if len(node.inputs) != 2 or not common:
    return None
  source = common[0]
  first, second = (
      tuple(graph.by_name[n] for n in row[:row.index(source)][::-1])
      for row in rows)
  for branch in (first, second):
    if any(len(n.inputs) > 1 and n.kind != 'attention' for n in branch):
      return None
  return source, first, second


def _main_inputs(graph, name):
  """The node before; of attention its queries'; of a sum the block's input."""
  node = graph.by_name[name]
  if not node.inputs:
    return None
  if node.kind == 'add':
    inner = _branches(graph, node)
    return inner[0] if inner else None
  return node.inputs[0]


def _row(graph, name, source):
  """The nodes after `source` up to `name`, if they are a row."""
  row = []
  while name != source:
    node = graph.by_name[name]
    if len(node.inputs) != 1:
      return None
    row.insert(0, node)
    name = node.inputs[0]
  return tuple(row)


def _weight(nodes):
  """How much a branch does: its layers, then its nodes."""
  layers_in = [n for n in nodes if n.kind in ('dense', 'conv', 'attention')]
  return len(layers_in), len(nodes)


def _layer(graph, unit, axis):
  node = unit.linear
  scales = [n for n in unit.before if n.kind == 'affine' and not n.paths]
  wrong = next((n for n in unit.before
                if n.kind != 'move' and n not in scales), unit.norm)
  if wrong is not None or node is None:
    what = wrong or unit.before[-1]
    raise UserError(
        f'Between the layers stands {what.name} ({what.kind}), so they are no '
        'plain linear maps and activations. Choose an attack that allows '
        'norms and pooling.')
  if node.op.kernel_path is None:
    raise UserError(f'The kernel of {node.name} is computed from several '
                    'parameters. Choose an attack that needs no layers.')
  first = unit.before[0] if unit.before else node
  in_shape = [1, *graph.by_name[first.inputs[0]].shape]
  in_shape.append(in_shape.pop(axis))
  if axis != -1 and isinstance(node.op, ops.Dense):
    numbers = jnp.arange(math.prod(in_shape)).reshape(in_shape)
    read = apply(unit.before, {}, jnp.moveaxis(numbers, -1, axis))
    if not (read.ravel() == numbers.ravel()).all():
      raise UserError(f'{node.name} reads features with their channels first. '
                      'Choose an attack that needs no layers.')
  activation = unit.activation

  def linear(kernel, x):
    x = apply(unit.before, {}, jnp.moveaxis(x, -1, axis))
    return jnp.moveaxis(node.op.linear(kernel, x), _channels(node), -1)

  return Layer(
      '/'.join(node.op.kernel_path[:-1]), linear,
      activation.op.name if activation else 'identity',
      tuple(in_shape[1:]),
      activation.op.function if activation else lambda x: x, bool(scales))


def _listed(nodes):
  return ' and '.join(node.name for node in nodes)
