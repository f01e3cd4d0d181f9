"""How a network turns a clip into tokens, read off its layer graph."""

import dataclasses
import math

import jax
import numpy as np

from vidleak_jax.types import Array, UserError
from vidleak_jax.victims.introspection import operations as ops
from vidleak_jax.victims.introspection.graph import LayerGraph, Node
from vidleak_jax.victims.introspection.tracing import Path

_NO_TOKENS = (
    '{} The attack needs a video transformer: a network whose first layer sees '
    'every pixel once, as patches, and has no norm before it. Choose an attack '
    'without tokens.')


@dataclasses.dataclass(frozen=True, eq=False)
class Tokens:
  """The patch embedding: `patches = black + slope * clip.ravel()[order]`.

  Attributes:
    embedding: the dense or conv node that sees the patches.
    order: [N, P] int: which pixel of the clip, flattened, an entry is.
    black: [N, P] float64: what the layer is given of a clip of zeros.
    slope: [N, P] float64.
    tokens: name of the node that answers the tokens with all positions added.
    positions: path of learned positions with one entry a token, special tokens
      first; None where there are none.
    shared: paths of learned positions that several tokens share.
    num_special: class tokens that precede the patches.
  """
  embedding: Node
  order: np.ndarray
  black: np.ndarray
  slope: np.ndarray
  tokens: str
  positions: Path | None
  shared: tuple[Path, ...]
  num_special: int

  def matrix(self, kernel: Array) -> Array:
    """The embedding's kernel, or its gradient, as [P, D], rows as in `order`.

    Args:
      kernel: in the shape of the leaf at `embedding.op.kernel_path`.
    """
    op = self.embedding.op
    kernel = op.kernel({op.kernel_path: kernel})
    if isinstance(op, ops.Conv):
      out, into, *window = op.dimension_numbers.rhs_spec
      kernel = kernel.transpose((*window, into, out))
      return kernel.reshape(-1, kernel.shape[-1])
    rows = op.dimension_numbers[0][1]
    rest = [a for a in range(kernel.ndim) if a not in rows]
    return kernel.transpose((*rows, *rest)).reshape(self.order.shape[1], -1)

  def clip_of(self, patches: np.ndarray) -> np.ndarray:
    """The inverse: patches [N, P] as they are given to the layer, to pixels.

    Returns:
      the clip's pixels, flattened: [T * H * W * C].
    """
    flat = np.empty(self.order.size, np.result_type(patches, np.float32))
    flat[self.order.ravel()] = ((patches - self.black) / self.slope).ravel()
    return flat


def find(graph: LayerGraph) -> Tokens:
  """The tokens of a network.

  Raises:
    UserError: its first layer does not see every pixel once.
  """
  node, before = graph.nodes[0], []
  while node.kind in ('input', 'move', 'affine') and not node.paths:
    readers = graph.consumers[node.name]
    if len(readers) != 1:
      raise UserError(_NO_TOKENS.format(f'{node.name} is read several times.'))
    node, = readers
    before.append(node)
  if node.kind not in ('dense', 'conv') or node.op.kernel_path is None:
    raise UserError(_NO_TOKENS.format(f'{node.name} is no embedding.'))
  order, black, slope = _tiling(graph, node, before[:-1])
  tokens, count, added = _positions(graph, node, len(order))
  own = [path for path, size in added if size == count]
  return Tokens(
      node, order, black, slope, tokens, own[0] if own else None,
      tuple(path for path, _ in added if path not in own[:1]),
      count - len(order))


def dense_groups(graph: LayerGraph) -> tuple[tuple[str, tuple[Node, ...]], ...]:
  """(name of a node, the dense layers that read it), in order.

  Queries, keys and values share an input, hence one span of gradients.
  """
  groups = [(node.name, tuple(
      reader for reader in graph.consumers[node.name]
      if reader.kind == 'dense' and reader.op.kernel_path))
            for node in graph.nodes]
  return tuple((name, readers) for name, readers in groups if readers)


def _tiling(graph, node, before):
  """Which pixels the layer's patches are, from three clips."""
  size = math.prod(graph.clip_shape)
  ramp = np.arange(size, dtype=np.float64)
  with jax.enable_x64(True):
    black, white, ramp = (
        np.asarray(_patches(node, before, clip.reshape(1, *graph.clip_shape)))
        for clip in (np.zeros(size), np.ones(size), ramp))
  slope = white - black
  with np.errstate(divide='ignore', invalid='ignore'):
    order = np.nan_to_num(np.rint((ramp - black) / slope)).astype(int)
  if not np.array_equal(np.sort(order, axis=None), np.arange(size)):
    raise UserError(_NO_TOKENS.format(
        f'{node.name} does not see every pixel once.'))
  return order, black, slope


def _patches(node, before, x):
  """What a layer is given, [N, P]."""
  for other in before:
    x = other.op({}, x)
  op = node.op
  if isinstance(op, ops.Conv):
    if op.groups != 1:
      raise UserError(_NO_TOKENS.format(f'{node.name} is grouped.'))
    channels = x.shape[op.dimension_numbers.lhs_spec[1]]
    count = channels * math.prod(op.window)
    eye = np.eye(count).reshape(*op.window, channels, count)
    out, into, *window = op.dimension_numbers.rhs_spec
    kernel = np.empty(eye.shape).transpose(np.argsort((*window, into, out)))
    kernel = np.ascontiguousarray(kernel)
    kernel.transpose((*window, into, out))[...] = eye
    y = np.moveaxis(op.product(kernel, x), op.dimension_numbers.out_spec[1], -1)
    return y.reshape(-1, count)
  columns = op.dimension_numbers[0][0]
  rest = [a for a in range(x.ndim) if a not in columns]
  count = math.prod(x.shape[a] for a in columns)
  return x.transpose((*rest, *columns)).reshape(-1, count)


def _positions(graph, node, count):
  """(name of the tokens' node, how many, [(path, entries of it)])."""
  width = math.prod(node.shape) // count
  added = []
  while len(readers := graph.consumers[node.name]) == 1:
    after, = readers
    if after.kind not in ('move', 'concat', 'positions', 'affine') or (
        len(after.inputs) != 1):
      break
    node = after
    if node.kind == 'concat':
      count = math.prod(node.shape) // width
    elif node.kind == 'positions':
      added += [(path, math.prod(graph.leaf_shapes[path]) // width)
                for path in node.paths]
  return node.name, count, added
