"""Whether a gradient has enough equations for each layer's input, by count.

For the input of a layer an attacker has the entries of the kernel's gradient,
which is linear in that input, and the layer's outputs where they are known: of
ReLU those that are on, taken as half. A count says what cannot be, not what
can: enough equations may still be dependent.
"""

import math
from typing import NamedTuple

from vidleak_jax.victims.introspection import operations as ops
from vidleak_jax.victims.introspection.graph import LayerGraph, Node

_HALF_OFF = ('relu', 'relu6', 'hard_tanh', 'hard_sigmoid')


class Count(NamedTuple):
  """The unknowns and equations of one layer's input, of all clips together."""
  name: str
  unknowns: int
  from_kernel: int    # entries of the kernel's gradient, shared by all clips
  from_outputs: int   # outputs that are known
  positions: int      # of the output, all clips'
  features: int       # of the output

  @property
  def shown(self) -> int:
    """Independent entries of the kernel's gradient, at most.

    It is a sum over positions of patch times cotangent, so its rank is no more
    than their number.
    """
    rows = self.from_kernel // self.features
    rank = min(self.positions, rows, self.features)
    return rank * (rows + self.features - rank)

  @property
  def equations(self) -> int:
    return self.from_kernel + self.from_outputs

  @property
  def determined(self) -> bool:
    """Whether there are at least as many equations as unknowns."""
    return self.equations >= self.unknowns

  @property
  def verdict(self) -> str:
    if not self.determined:
      return 'open'
    return 'enough' if self.equations < 2 * self.unknowns else 'ample'


def identifiability(graph: LayerGraph, batch_size: int = 1
                    ) -> tuple[Count, ...]:
  """One count for each dense layer and convolution, in order.

  Args:
    graph: of the network.
    batch_size: clips that share one gradient.
  """
  return tuple(_count(graph, node, batch_size)
               for node in graph.of_kind('dense', 'conv')
               if node.op.kernel_path is not None)


def shown_share(graph: LayerGraph, batch_size: int = 1) -> float:
  """Returns independent entries of all kernels' gradients a pixel, at most.

  Below 1 many clips have the same gradient, whatever the attack.
  """
  pixels = batch_size * math.prod(graph.clip_shape)
  return sum(count.shown for count in identifiability(graph, batch_size)
             ) / pixels


def as_text(counts: tuple[Count, ...]) -> str:
  """The counts as a table, a line a layer; numbers per output position."""
  rows = [('layer', 'positions', 'unknowns', 'equations', 'verdict')]
  rows += [(c.name, str(c.positions), f'{c.unknowns / c.positions:.4g}',
            f'{c.equations / c.positions:.4g}', c.verdict) for c in counts]
  widths = [max(map(len, column)) for column in zip(*rows)]
  return '\n'.join(
      '  '.join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
      for row in rows)


def _count(graph, node, batch_size):
  outputs = math.prod(node.shape)
  return Count(
      node.name, batch_size * math.prod(graph.by_name[node.inputs[0]].shape),
      math.prod(graph.leaf_shapes[node.op.kernel_path]),
      batch_size * _known(graph, node),
      batch_size * outputs // math.prod(_features(node)),
      math.prod(_features(node)))


def _features(node):
  """Sizes of the output's axes that are the kernel's, not positions."""
  if isinstance(node.op, ops.Conv):
    # The node's shape lacks the batch axis; frames in it keep theirs.
    axis = node.op.dimension_numbers.out_spec[1]
    ndim = len(node.op.dimension_numbers.out_spec)
    return node.shape[axis - ndim],
  count = node.op.num_features
  return node.shape[-count:] if node.op.data_first else node.shape[:count]


def _known(graph: LayerGraph, node: Node) -> int:
  """How many outputs of a layer are known once the layer after is solved."""
  size, share = math.prod(node.shape), 1.0
  while len(readers := graph.consumers[node.name]) == 1:
    node, = readers
    if node.kind == 'activation':
      share = 0.5 if node.op.name in _HALF_OFF else 1.0
    elif node.kind in ('pool', 'reduce'):
      size = math.prod(node.shape)
    elif node.kind not in ('norm', 'add', 'affine', 'move', 'positions'):
      break
  return round(share * size)
