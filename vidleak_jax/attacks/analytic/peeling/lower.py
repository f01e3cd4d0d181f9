"""What the kernels below the solved blocks show, as residuals of a clip.

Below a node whose cotangent is known, the gradient of every kernel follows from
the clip alone,

  dW = sum_p x_p (x) dz_p,

both factors computed from it. It is far from smooth: where the sign of a ReLU
changes, dz jumps. So the slopes of all ReLUs are unknowns of their own, as in
`matching.defended_model`: a guess whose features are off by tau expects
p = sigmoid(z / tau) within sqrt(p (1 - p)), and pixels, kernels and slopes are
solved together. What is off in both factors at once no linear step sees: a
kernel's residual is compared over such an error of its input, with the
covariance error^2 dz^T dz between channels.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vidleak_jax.attacks.analytic.peeling.units import Leaves
from vidleak_jax.attacks.matching.most_likely import expected_slope
from vidleak_jax.types import Array, UserError
from vidleak_jax.victims.introspection import operations as ops
from vidleak_jax.victims.introspection.graph import LayerGraph, run

_RIDGE = 1e-7  # of the largest eigenvalue, when channels are whitened
_SURE = 0.03   # std of the slope of a unit far from 0

Slopes = dict[str, Array]  # of each ReLU, as its output


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


def expected_slopes(graph: LayerGraph, leaves: Leaves, clips: Array, tau: Array
                    ) -> tuple[Slopes, Slopes]:
  """Returns the slopes that a guess expects, and their standard deviations.

  Args:
    graph: the part of the network below the nodes of `Lower`.
    leaves: its parameters by path.
    clips: [B, T, H, W, C].
    tau: [] error of each ReLU's input, over its root mean square.
  """
  return _expected(graph, run(graph, leaves, clips), tau)


def misses(graph: LayerGraph, leaves: Leaves, lower: Lower, clips: Array,
           slopes: Slopes, tau: Array, error: Array, channel_axis: int = -1
           ) -> tuple[list[Array], list[Array]]:
  """Returns (kernels' residuals, slopes'), over their standard deviation.

  Half the sum of their squares is a negative log-likelihood.

  Args:
    graph: as above, and the next one.
    leaves: its parameters by path.
    lower: what is known.
    clips: [B, T, H, W, C].
    slopes: see `expected_slopes`.
    tau: [] of slopes.
    error: [] of what a linear step does not see, over a kernel's input.
    channel_axis: of all outputs.
  """
  values = run(graph, leaves, clips)
  down = {name: jnp.zeros_like(value) for name, value in values.items()}
  for name, cotangent in lower.cotangents.items():
    down[name] += cotangent.reshape(down[name].shape)
  kernels = []
  for node in graph.nodes[:0:-1]:
    above, inputs = down[node.name], [values[name] for name in node.inputs]
    if node.kind == 'activation':
      below = [above * slopes[node.name]]
    else:
      grads, *below = _pull(node, leaves, inputs, above)
      kernels += [_over(grad - lower.gradient[path], *(
          jnp.moveaxis(each, channel_axis, -1) for each in (*inputs, above)),
                        error) for path, grad in grads.items()]
    for name, each in zip(node.inputs, below, strict=True):
      down[name] += each
  means, stds = _expected(graph, values, tau)
  return kernels, [((slopes[name] - means[name]) / stds[name]).reshape(-1)
                   for name in means]


def _expected(graph, values, tau):
  found = {node.name: expected_slope(values[node.inputs[0]], tau, _SURE)
           for node in graph.nodes[1:] if node.kind == 'activation'}
  return ({name: mean for name, (mean, _) in found.items()},
          {name: std for name, (_, std) in found.items()})


def _pull(node, leaves, inputs, above):
  """(gradients of the node's kernel by path, of each of its inputs)."""
  kernels = {}
  if node.kind == 'conv':
    kernels = {node.op.kernel_path: leaves[node.op.kernel_path]}
  _, pull = jax.vjp(
      lambda kernels, *inputs: node.op({**leaves, **kernels}, *inputs),
      kernels, *inputs)
  return pull(above)


def _over(difference: Array, x: Array, slope: Array, error: Array) -> Array:
  """A kernel's residual, its output channels made independent, over its std."""
  channels = slope.shape[-1]
  rows = slope.reshape(-1, channels)
  spread = error ** 2 * jnp.mean(x ** 2) * rows.T @ rows
  values, vectors = jnp.linalg.eigh(lax.stop_gradient(spread))
  white = vectors * lax.rsqrt(jnp.maximum(values, _RIDGE * values[-1]))
  return difference.reshape(-1, channels) @ lax.stop_gradient(white)
