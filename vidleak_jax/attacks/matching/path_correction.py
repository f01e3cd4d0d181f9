"""Targets at a surrogate point, corrected by the client's own path.

After several local steps an update is only about the gradient at one point
between both weights (`surrogate`). How far it is from that depends on the clips
so little that a guess tells it: the client is simulated from the guess, its
path is bent so that it ends where the client's ended, and what the layers do
along that path is compared with what they do at the point:

  sum_k a_k f(z_target + z_k - z_point) = h_seen,   a_k = e_k . m / |m|^2
  dW_target = dW_seen - (sum_k dW_k - dW_point)

with m = sum_k e_k the clip's part in the head's bias gradient. The errors e_k
are those of each clip in each step times its share of the update there
(`local_training.shares`), 0 where the step covers other clips. Signs of
units are those of the targets, moved by what the guess says of the steps: both
are continuous in the guess, unlike gradients.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from vidleak_jax import trees
from vidleak_jax.attacks.analytic.activations import INVERTIBLE
from vidleak_jax.attacks.matching import chain
from vidleak_jax.attacks.matching.batch_features import FeatureTarget
from vidleak_jax.specs import LocalTraining
from vidleak_jax.types import Array, Params, Victim

_NEWTON = 8  # steps; a piecewise linear function needs one for each kink


class Sent(NamedTuple):
  """What a correction starts from."""
  params: Params         # w, what the server sent
  update: Params         # w - w_N of one message
  point: Params          # weights of the surrogate
  scale: Array           # [] of the surrogate's gradient over the mean's
  shares: Array          # [N, B] of each clip's gradient in each step
  target: FeatureTarget  # at the point, from the update alone


def corrected(victim: Victim, training: LocalTraining, sent: Sent,
              clips: Array) -> FeatureTarget:
  """Returns the target at the point that a guess makes of an update.

  Args:
    victim: a chain of layers whose last one but the head has an invertible
      activation.
    training: plain or momentum SGD.
    sent: the update, and its targets without a correction.
    clips: [B, T, H, W, C] the guess, in the order of the targets' labels.
  """
  layers, (_, _, point, scale, shares, target) = victim.layers, sent
  layer, head = layers[-2], layers[-1]
  inverse = INVERTIBLE[layer.activation]
  labels = jax.nn.one_hot(target.labels, victim.num_classes)
  path = bent_path(victim, training, sent, clips)

  def forward(_, weights_and_shares):
    weights, share = weights_and_shares
    z = _last(layers, weights, clips)[1]
    leaves = trees.named(weights, head.name)
    logits = layer.activate(z).reshape(len(clips), -1) @ leaves['kernel']
    return None, (z, share[:, None] * (jax.nn.softmax(
        logits + leaves['bias'][None]) - labels))

  _, (outputs, errors) = lax.scan(forward, None, (path, shares))
  mean = errors.sum(0)
  parts = jnp.einsum('kbc,bc->kb', errors, mean) / jnp.sum(
      mean ** 2, -1)[None]
  x_point, z_point = _last(layers, point, clips)
  goal = _output_at_point(
      layer, target.output, parts, outputs - z_point[None])

  def backward(total, step):
    weights, error, z = step
    kernel = trees.named(weights, head.name)['kernel']
    down = (error @ kernel.T).reshape(z.shape)
    x = _last(layers, weights, clips)[0]
    slope = inverse.slope(layer.activate(goal + z - z_point))
    return total + _kernel_gradient(layer, weights, x, down * slope), None

  kernel, _ = lax.scan(backward, jnp.zeros_like(
      trees.named(point, layer.name)['kernel']), (path, errors, outputs))
  down = scale * (mean @ trees.named(point, head.name)['kernel'].T
                  ).reshape(goal.shape)
  output = layer.activate(goal)
  at_point = _kernel_gradient(
      layer, point, x_point, down * inverse.slope(output))
  rows = scale * kernel - at_point
  return target._replace(
      output=output, slope=down,
      kernel_grad=target.kernel_grad - rows.reshape(target.kernel_grad.shape))


def _output_at_point(layer, seen, parts, moves):
  """z with sum_k parts_k f(z + moves_k) = seen, unit by unit, by Newton."""
  inverse = INVERTIBLE[layer.activation]

  def mean(values):
    # Sums over a leading axis, fused with a division, gave inf on CPUs.
    return jnp.einsum('kb,kb...->b...', parts, values)

  def newton(_, z):
    values = layer.activate(z[None] + moves)
    return z - (mean(values) - seen) / mean(inverse.slope(values))
  return lax.fori_loop(
      0, _NEWTON, newton, inverse.inverse(seen) - mean(moves))


def bent_path(victim: Victim, training: LocalTraining, sent: Sent,
              clips: Array) -> Params:
  """Returns the weights at each step, ending where the client's ended.

  Args:
    victim: the network.
    training: plain or momentum SGD.
    sent: the update.
    clips: [B, T, H, W, C] the guess.

  Returns:
    Leaves [N, ...] of the weights from which the steps start.
  """
  momentum = training.momentum if training.optimizer == 'momentum' else 0.0
  start, labels = sent.params, sent.target.labels

  @jax.grad
  def gradient(weights, share):
    each = jax.vmap(lambda *clip: victim.loss(weights, *clip))(
        clips[:, None], labels[:, None])
    return share @ each / share.sum()

  def step(carry, share):
    weights, velocity = carry
    slope = gradient(weights, share)
    velocity = jax.tree.map(
        lambda v, g, w, w0: (momentum * v + g + training.weight_decay * w
                             + training.proximal * (w - w0)),
        velocity, slope, weights, start)
    moved = jax.tree.map(
        lambda w, v: w - training.local_learning_rate * v, weights, velocity)
    return (moved, velocity), weights

  still = jax.tree.map(jnp.zeros_like, start)
  (end, _), path = lax.scan(step, (start, still), sent.shares)
  # A step's part of the way, by the head's bias, which has the least noise.
  bias = trees.named(start, victim.layers[-1].name)['bias']
  along = trees.named(path, victim.layers[-1].name)['bias']
  whole = trees.named(end, victim.layers[-1].name)['bias'] - bias
  parts = (along - bias[None]) @ whole / jnp.vdot(whole, whole)
  missed = jax.tree.map(
      lambda e, w, u: e - (w - u), end, start, sent.update)
  return jax.tree.map(
      lambda p, e: p - parts.reshape(-1, *[1] * e.ndim) * e[None], path,
      missed)


def _last(layers, params, clips):
  """(input, output before its activation) of the layer below the head."""
  below = layers[:-1]
  return chain.run(below, chain.leaves(below, params), clips)


def _kernel_gradient(layer, params, x, dz):
  kernel = trees.named(params, layer.name)['kernel']
  _, pull = jax.vjp(lambda kernel: layer.linear(kernel, x), kernel)
  return pull(dz)[0]
