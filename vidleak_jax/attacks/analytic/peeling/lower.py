"""What the kernels below the solved blocks show, as residuals of a clip.

Below a node whose cotangent is known, the gradient of every kernel follows from
the clip alone,

  dW = sum_p x_p (x) dz_p,

both factors computed from it. It is far from smooth: where the sign of a ReLU
changes, dz jumps. So the slope of a ReLU is smoothed over tau, the error of the
guess's features, to p = sigmoid(z / tau), and the variance p (1 - p) that this
leaves is passed down as cotangents are, through squared kernels. A kernel's
residual is compared over the standard deviation that this variance and an error
tau of its input would make, with the covariance tau^2 dz^T dz between channels.
For defended updates slopes are unknowns instead (`matching.defended_model`).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vidleak_jax.types import Array, UserError
from vidleak_jax.victims.introspection import operations as ops
from vidleak_jax.victims.introspection.graph import LayerGraph, Node
from vidleak_jax.victims.introspection.tracing import Leaves

_RIDGE = 1e-7    # of the largest eigenvalue, when channels are whitened
_LOGISTIC = 1.7  # a sigmoid of so many times z is about a normal's integral


class Lower(NamedTuple):
  """What is known of the network below some nodes."""
  cotangents: dict[str, np.ndarray]  # [B, ...] dL/d of the nodes' outputs
  gradient: Leaves                   # of each kernel below them, by path


def check(graph: LayerGraph) -> None:
  """Raises a UserError where a node has no rule here."""
  for node in graph.nodes[1:]:
    if not (node.kind in ('conv', 'add')
            or (isinstance(node.op, ops.Activation) and node.op.name == 'relu')
            or (isinstance(node.op, ops.Norm) and node.op.form == 'fixed')):
      raise UserError(f'{node.name} ({node.kind}) stands below the solved '
                      'blocks, whose gradients are not read through it')


def misses(graph: LayerGraph, leaves: Leaves, lower: Lower, clips: Array,
           tau: Array, channel_axis: int = -1) -> list[Array]:
  """Differences of kernels' gradients, over their standard deviation.

  Args:
    graph: the part of the network below the nodes of `lower`.
    leaves: its parameters by path.
    lower: what is known.
    clips: [B, T, H, W, C].
    tau: [] error of the guess's features, over their root mean square.
    channel_axis: of all outputs.

  Returns:
    A matrix for each kernel; half the sum of their squares is a negative
    log-likelihood.
  """
  convs = [node for node in graph.nodes if node.kind == 'conv']
  learned = {node.op.kernel_path: leaves[node.op.kernel_path]
             for node in convs}
  bumps = {node.name: jnp.zeros((len(clips), *node.shape), clips.dtype)
           for node in graph.nodes[1:]}

  def forward(learned, bumps):
    values, chances = {graph.nodes[0].name: clips}, {}
    for node in graph.nodes[1:]:
      inputs = [values[name] for name in node.inputs]
      if node.kind == 'activation':
        value, chances[node.name] = _smooth_relu(*inputs, tau)
      else:
        value = node.op({**leaves, **learned}, *inputs)
      values[node.name] = value + bumps[node.name]
    return [values[name] for name in lower.cotangents], (values, chances)

  outputs, pull, (values, chances) = jax.vjp(
      forward, learned, bumps, has_aux=True)
  grads, slopes = pull([cotangent.reshape(output.shape) for cotangent, output
                        in zip(lower.cotangents.values(), outputs)])
  doubts = _doubts(graph, leaves, chances, slopes)

  def miss(node):
    path = node.op.kernel_path
    return _over(grads[path] - lower.gradient[path], *(
        jnp.moveaxis(each, channel_axis, -1) for each in (
            values[node.inputs[0]], slopes[node.name], doubts[node.name])), tau)
  return [miss(node) for node in convs]


def _smooth_relu(z, tau):
  """(relu(z), whose slope is the chance that it is on; that chance)."""
  chance = jax.nn.sigmoid(_LOGISTIC * z / (tau * _still(_rms(z))))
  # The value is exact; only what is differentiated is smoothed.
  return _still(jax.nn.relu(z)) + chance * (z - _still(z)), _still(chance)


def _doubts(graph, leaves, chances, slopes):
  """The variance of dL/d of each node's output that open signs leave."""
  clip = graph.nodes[0].name
  variance = jax.tree.map(jnp.zeros_like, slopes)
  for node in graph.nodes[:0:-1]:
    above = variance[node.name]
    for name in node.inputs:
      if name == clip:
        continue
      if node.kind == 'activation':
        chance = chances[node.name]
        variance[name] += chance ** 2 * above + slopes[node.name] ** 2 * (
            chance * (1 - chance))
      else:
        variance[name] += _squared(node, leaves, variance[name].shape, above)
  return _still(variance)


def _squared(node: Node, leaves: Leaves, shape: tuple[int, ...], above: Array
             ) -> Array:
  """Variances at a node's input from those at its output."""
  if node.kind == 'add':
    return above
  if node.kind == 'conv':
    kernel = leaves[node.op.kernel_path] ** 2
    return jax.linear_transpose(
        lambda x: node.op.linear(kernel, x), jnp.zeros(shape, above.dtype)
    )(above)[0]
  scale = node.op(leaves, jnp.ones_like(above)) - node.op(
      leaves, jnp.zeros_like(above))
  return above * scale ** 2


def _over(difference: Array, x: Array, slope: Array, doubt: Array, tau: Array
          ) -> Array:
  """A kernel's residual, its output channels made independent, over its std."""
  channels, power = slope.shape[-1], jnp.mean(x ** 2)
  rows = slope.reshape(-1, channels)
  spread = power * (tau ** 2 * rows.T @ rows + jnp.diag(
      doubt.reshape(-1, channels).sum(0)))
  values, vectors = jnp.linalg.eigh(_still(spread))
  white = vectors * lax.rsqrt(jnp.maximum(values, _RIDGE * values[-1]))
  return difference.reshape(-1, channels) @ _still(white)


def _rms(array):
  return jnp.sqrt(jnp.mean(array ** 2) + 1e-20)


def _still(tree):
  return jax.tree.map(lax.stop_gradient, tree)
