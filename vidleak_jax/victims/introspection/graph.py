"""The layers of any network: what an analytic attack reads.

`introspect` makes a `LayerGraph`; `structure` finds chains,
residual blocks and tokens in it.
"""

import dataclasses
import functools
import math

from vidleak_jax.models.layers import LOWERINGS
from vidleak_jax.types import Array, Params, pick
from vidleak_jax.victims.introspection import operations as ops
from vidleak_jax.victims.introspection.tracing import Leaves, Path, leaves_of


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
  """One operation of a network.

  Attributes:
    name: unique; the layer's path in the params where it has one.
    op: what it does, see `operations`.
    inputs: names of the nodes that it reads.
    shape: of the output, without the batch axis. A 2-D network's frames stay
      an axis of their own, in front.
  """
  name: str
  op: ops.Operation
  inputs: tuple[str, ...]
  shape: tuple[int, ...]

  @property
  def kind(self) -> str:
    """input, dense, conv, norm, activation, pool, ..., opaque."""
    return self.op.kind

  @property
  def paths(self) -> tuple[Path, ...]:
    """Paths of the parameters that it reads."""
    return self.op.paths


@dataclasses.dataclass(frozen=True, eq=False)
class Head:
  """The dense layer whose output are the logits."""
  node: str
  kernel: Path
  bias: Path | None


@dataclasses.dataclass(frozen=True, eq=False)
class LayerGraph:
  """A network as nodes in topological order.

  Attributes:
    nodes: the first is the input.
    output: name of the node that answers the logits.
    clip_shape: (T, H, W, C).
    batch_size: of the clips that it was traced with, which `evaluate` needs.
    leaf_shapes: of all parameters, by path.
    unsupported: what an analytic attack cannot see through, for the user.
  """
  nodes: tuple[Node, ...]
  output: str
  clip_shape: tuple[int, ...]
  batch_size: int
  leaf_shapes: dict[Path, tuple[int, ...]]
  unsupported: tuple[str, ...]

  @functools.cached_property
  def by_name(self) -> dict[str, Node]:
    return {node.name: node for node in self.nodes}

  @functools.cached_property
  def consumers(self) -> dict[str, tuple[Node, ...]]:
    """name -> the nodes that read it."""
    found = {node.name: [] for node in self.nodes}
    for node in self.nodes:
      for name in dict.fromkeys(node.inputs):
        found[name].append(node)
    return {name: tuple(nodes) for name, nodes in found.items()}

  @functools.cached_property
  def head(self) -> Head | None:
    """The dense layer at the end; None where the logits are something else."""
    node = self.by_name[self.output]
    while node.kind == 'move' and math.prod(node.shape) == math.prod(
        self.by_name[node.inputs[0]].shape):
      node = self.by_name[node.inputs[0]]
    if not isinstance(node.op, ops.Dense) or node.op.kernel_path is None:
      return None
    return Head(node.name, node.op.kernel_path, node.op.bias_path)

  def of_kind(self, *kinds: str) -> tuple[Node, ...]:
    return tuple(node for node in self.nodes if node.kind in kinds)


def run(graph: LayerGraph, leaves: Leaves, clips: Array) -> dict[str, Array]:
  """The outputs of all nodes, by name.

  Args:
    graph: of the network.
    leaves: the parameters by path, see `tracing.leaves_of`.
    clips: [batch_size, T, H, W, C].
  """
  values = {graph.nodes[0].name: clips}
  for node in graph.nodes[1:]:
    values[node.name] = node.op(leaves, *(values[i] for i in node.inputs))
  return values


def evaluate(graph: LayerGraph, params: Params, clips: Array) -> Array:
  """The network's logits, computed node by node from what was recognised.

  Args:
    graph: of the network.
    params: as the network takes them.
    clips: [B, T, H, W, C] with the graph's batch size; or one clip without the
      batch axis, of a graph for one clip.

  Returns:
    [B, K], or [K] of one clip.
  """
  single = clips.ndim == len(graph.clip_shape)
  logits = run(graph, leaves_of(params), clips[None] if single else clips)[
      graph.output]
  return logits[0] if single else logits


def with_lowering(graph: LayerGraph, lowering: str) -> LayerGraph:
  """The same graph with its convolutions computed in another way.

  Args:
    graph: of the network.
    lowering: 'lax', or 'matmul', whose gradients are far faster on a CPU;
      grouped and transposed convolutions stay in 'lax'.
  """
  pick(LOWERINGS, lowering, 'convolution lowering')
  nodes = tuple(
      dataclasses.replace(node, op=dataclasses.replace(
          node.op, lowering=lowering)) if isinstance(node.op, ops.Conv)
      else node for node in graph.nodes)
  return dataclasses.replace(graph, nodes=nodes)
