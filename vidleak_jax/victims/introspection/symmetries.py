"""Changes of the parameters that the loss does not see, and what follows.

Where the channels of one layer may be scaled by any factor while the layer that
reads them is scaled by its inverse, the loss stays what it is, for every clip.
So each gradient is orthogonal to that change: per channel c,

  sum_writers <W_c, dL/dW_c> = sum_readers <V_c, dL/dV_c>.

This holds between layers with only ReLU, leaky ReLU, pooling or moves between
them, between a convolution and the BatchNorm that follows, and between queries
and keys. An update that breaks it was not computed by this network.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from vidleak_jax.types import Array
from vidleak_jax.victims.introspection import operations as ops
from vidleak_jax.victims.introspection.graph import LayerGraph, Node
from vidleak_jax.victims.introspection.tracing import Path

Leaves = Mapping[Path, Array]

_HOMOGENEOUS = ('relu', 'leaky_relu', 'identity')
_KEEPING = ('move', 'pool', 'reduce')  # what leaves channels apart
_NO_CLASS = -1


class Term(NamedTuple):
  """How one leaf changes: `sign * direction(leaves)`, summed by channel."""
  path: Path
  sign: int
  direction: Callable[[Leaves], np.ndarray]  # of the leaf's shape
  by_channel: Callable[[np.ndarray, int], np.ndarray]  # leaf -> [C]


@dataclasses.dataclass(frozen=True, eq=False)
class Symmetry:
  """A change of some leaves, channel by channel, that the loss does not see.

  Attributes:
    name: the layers between which it is.
    terms: how each leaf takes part.
    num_channels: C.
    kind: 'scale' between layers, 'norm' between a layer and its BatchNorm with
      fixed statistics, 'batch' where the batch's own statistics undo it.
  """
  name: str
  terms: tuple[Term, ...]
  num_channels: int
  kind: str

  @property
  def paths(self) -> tuple[Path, ...]:
    """The leaves that take part."""
    return tuple(dict.fromkeys(term.path for term in self.terms))

  def balance(
      self, leaves: Leaves, update: Leaves
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns (sum, size), both [C]: what a gradient makes 0, and its scale.

    The size is that of a sum of random signs.

    Args:
      leaves: the parameters by path.
      update: a gradient by the same paths.
    """
    total = np.zeros(self.num_channels)
    power = np.zeros(self.num_channels)
    for path, sign, direction, by_channel in self.terms:
      product = np.asarray(direction(leaves), np.float64) * np.asarray(
          update[path], np.float64)
      total += sign * by_channel(product, self.num_channels)
      power += by_channel(product ** 2, self.num_channels)
    return total, np.sqrt(power)

  def misfit(self, leaves: Leaves, update: Leaves) -> float:
    """Returns how far an update breaks it: 0, or about 1 for random numbers."""
    total, size = self.balance(leaves, update)
    return float(np.linalg.norm(total) / max(np.linalg.norm(size), 1e-150))


def find(graph: LayerGraph) -> tuple[Symmetry, ...]:
  """Returns the symmetries that the layers of a network suggest.

  A layout that is not understood may suggest one that is none: hold them
  against a gradient of the network's own before relying on them.
  """
  return _Finder(graph).found()


def batch_statistics(symmetry: Symmetry) -> Symmetry:
  """Returns what a 'norm' symmetry would be with the batch's statistics."""
  return dataclasses.replace(symmetry, kind='batch', terms=tuple(
      term for term in symmetry.terms if term.sign > 0))


def fixed_statistics(
    laws: Sequence[Symmetry], graph: LayerGraph
) -> list[Symmetry]:
  """Returns what 'batch' symmetries would be with running statistics.

  Those are looked for under 'batch_stats', by the names 'mean' and 'var'.
  """
  found = []
  for law in laws:
    path = law.terms[0].path[:-1]
    reader = next((node for node in graph.of_kind('norm') if (
        graph.by_name[node.inputs[0]].paths[:1] == (law.terms[0].path,))), None)
    if law.kind != 'batch' or reader is None or not path:
      continue
    norm = reader.op
    assert isinstance(norm, ops.Norm)
    statistics = ('batch_stats', *norm.scale[:-1])
    norm = dataclasses.replace(
        norm, mean=(*statistics, 'mean'), var=(*statistics, 'var'))
    found.append(dataclasses.replace(law, kind='norm', terms=(
        *law.terms, *_absorbed(norm))))
  return found


def _absorbed(norm: ops.Norm) -> list[Term]:
  """How a norm with fixed statistics undoes a scale of its input."""
  return [Term(norm.scale, -1, _itself(norm.scale), _last_axis),
          Term(norm.bias, -1, _offset(norm), _last_axis)]


class _Finder:
  """Walks a graph once and sorts its values into classes of channels."""

  def __init__(self, graph: LayerGraph):
    self._graph = graph
    self._parent: list[int] = []
    self._channels: list[int] = []
    self._frozen: set[int] = set()
    self._writers: dict[int, list[tuple[str, Term]]] = {}
    self._readers: dict[int, list[tuple[str, Term]]] = {}
    self._kinds: dict[int, str] = {}
    self._class = {graph.nodes[0].name: _NO_CLASS}
    for node in graph.nodes[1:]:
      self._visit(node)
    self._freeze(self._class[graph.output])

  def found(self) -> tuple[Symmetry, ...]:
    groups: dict[int, tuple[list, list]] = {}
    frozen = {self._root(each) for each in self._frozen}
    for index in range(len(self._parent)):
      writers, readers = groups.setdefault(self._root(index), ([], []))
      writers += self._writers.get(index, [])
      readers += self._readers.get(index, [])
    symmetries = []
    for root, (writers, readers) in groups.items():
      if root in frozen or not writers:
        continue
      kind = next((self._kinds[i] for i in range(len(self._parent))
                   if self._root(i) == root and i in self._kinds), 'scale')
      if not readers and kind != 'batch':
        continue
      names = dict.fromkeys(name for name, _ in [*writers, *readers])
      symmetries.append(Symmetry(
          ' - '.join(names), tuple(t for _, t in [*writers, *readers]),
          self._channels[root], kind))
    return tuple(symmetries)

  def _visit(self, node: Node) -> None:
    inputs = [self._class[name] for name in node.inputs]
    op = node.op
    if isinstance(op, ops.Linear):
      self._class[node.name] = self._linear(node, inputs[0])
    elif isinstance(op, ops.Norm):
      self._class[node.name] = self._norm(node, inputs[0])
    elif isinstance(op, ops.Attention) and len(inputs) == 3:
      self._class[node.name] = self._attention(*inputs)
    elif node.kind in _KEEPING or (
        isinstance(op, ops.Activation) and op.name in _HOMOGENEOUS):
      self._class[node.name] = inputs[0]
    elif isinstance(op, ops.Add):
      self._class[node.name] = self._join(*inputs)
    else:
      for each in inputs:
        self._freeze(each)
      self._class[node.name] = _NO_CLASS

  def _linear(self, node, read):
    op = node.op
    path = op.kernel_path
    if path is None or (op.bias is not None and op.bias_path is None):
      self._freeze(read)
      return _NO_CLASS
    shape = self._graph.leaf_shapes[path]
    if read != _NO_CLASS:
      width = self._channels[self._root(read)]
      if len(shape) < 2 or shape[-2] % width:
        self._freeze(read)
      else:
        self._readers.setdefault(read, []).append(
            (node.name, Term(path, -1, _itself(path), self._input_sum(node))))
    made = self._new(shape[-1])
    terms = [Term(path, 1, _itself(path), _last_axis)]
    if op.bias_path:
      terms.append(Term(op.bias_path, 1, _itself(op.bias_path), _last_axis))
    self._writers[made] = [(node.name, term) for term in terms]
    return made

  def _input_sum(self, node):
    """Sums a kernel over all but its inputs' channels, however flattened."""
    before = self._graph.by_name[node.inputs[0]]
    while before.kind == 'move' and len(before.shape) == 1:
      steps = getattr(before.op, 'steps', ())
      if 'transpose' in steps:
        return _channels_first
      before = self._graph.by_name[before.inputs[0]]
    return _channels_last

  def _norm(self, node, read):
    op = node.op
    if op.scale is None or op.bias is None:
      self._freeze(read)
      return _NO_CLASS
    if op.form == 'fixed' and op.mean and op.var and read != _NO_CLASS:
      self._kinds[read] = 'norm'
      self._readers.setdefault(read, []).extend(
          (node.name, term) for term in _absorbed(op))
    elif op.form == 'batch' and read != _NO_CLASS:
      self._kinds[read] = 'batch'
    else:
      self._freeze(read)
    made = self._new(self._graph.leaf_shapes[op.scale][-1])
    self._writers[made] = [
        (node.name, Term(path, 1, _itself(path), _last_axis))
        for path in (op.scale, op.bias)]
    return made

  def _attention(self, queries, keys, values):
    """Queries and keys may be scaled against each other."""
    sides = [self._root(each) for each in (queries, keys)]
    if _NO_CLASS in (queries, keys) or sides[0] == sides[1]:
      for each in (queries, keys):
        self._freeze(each)
      return values
    self._readers.setdefault(queries, []).extend(
        (name, term._replace(sign=-1))
        for name, term in self._writers.get(keys, []))
    self._freeze(keys)
    return values

  def _join(self, *classes):
    if _NO_CLASS in classes:
      for each in classes:
        self._freeze(each)
      return _NO_CLASS
    one, other = map(self._root, classes)
    if self._channels[one] != self._channels[other]:
      self._freeze(one)
      self._freeze(other)
      return _NO_CLASS
    self._parent[other] = one
    return one

  def _new(self, channels):
    self._parent.append(len(self._parent))
    self._channels.append(channels)
    return len(self._parent) - 1

  def _root(self, index):
    while self._parent[index] != index:
      index = self._parent[index]
    return index

  def _freeze(self, index):
    if index != _NO_CLASS:
      self._frozen.add(index)


def _itself(path):
  return lambda leaves: leaves[path]


def _offset(norm):
  """How a fixed norm's bias makes up for the mean that was not scaled."""
  def direction(leaves):
    scale, mean, var = (np.asarray(leaves[path], np.float64) for path in (
        norm.scale, norm.mean, norm.var))
    return scale * mean / np.sqrt(var + norm.eps)
  return direction


def _last_axis(leaf, num_channels):
  return leaf.reshape(-1, num_channels).sum(0)


def _channels_last(leaf, num_channels):
  return leaf.reshape(-1, num_channels, leaf.shape[-1]).sum((0, 2))


def _channels_first(leaf, num_channels):
  return leaf.reshape(num_channels, -1).sum(1)
