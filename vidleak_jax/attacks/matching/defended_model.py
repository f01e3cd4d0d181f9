"""What a guess should show through its gradients, and how far off it is.

Residuals are compared over their standard deviation: the defence's, and what an
error tau in the guess's own features would make. For the gradient of a kernel,
`dW = sum_p x_p (x) dz_p`, that is a covariance `tau^2 dz^T dz` between output
channels. With tau falling, a match that whitens channels becomes maximum
likelihood. Gradients of lower kernels jump where a kinked unit changes its
sign, so its slope is smoothed over tau to `p high + (1 - p) low`, and the
variance `p (1 - p) (high - low)^2` that this leaves is passed down the layers
as gradients are, through squared kernels.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from vidleak_jax.types import Array, Layer, Params

_RIDGE = 1e-7  # of the largest eigenvalue


class Entries(NamedTuple):
  """An `Observed` of one leaf in float32, for the device."""
  low: Array
  high: Array
  std: Array
  typical: Array  # [], the median of std
  rms: Array      # [], of the values


class Target(NamedTuple):
  """All that is compared; built from the leak alone."""
  feature: Entries               # of the head's input, [F]
  signs: Array                   # [F]: 1, -1, or 0 where a sign is not sure
  likely: Array                  # [F]: its sign is taken where none is sure
  slope: Array                   # [F]: dL/dfeature
  kernels: dict[str, Entries]    # by layer
  biases: dict[str, Entries]


class Fade(NamedTuple):
  """Errors tau of the guess's features, over their root mean square."""
  top: Array    # of what the head and the last kernel show
  lower: Array  # of all other leaves; slopes are smoothed over it


def residuals(
    layers: tuple[Layer, ...], params: Params, target: Target, clips: Array,
    fade: Fade, *, all_leaves: bool, per_entry: bool,
) -> list[Array]:
  """Differences between what is observed and what a guess shows, over std.

  Args:
    layers: a chain of convolutions, the dense head last.
    params: the weights.
    target: what is observed.
    clips: [1, T, H, W, C] in [0, 1].
    fade: errors of the guess.
    all_leaves: whether all leaves count, and signs that are not sure come from
      the guess; else only features and the last kernel count.
    per_entry: whether each entry has its own std; else those of one kernel are
      whitened together.

  Returns:
    Vectors; half the sum of their squares is a negative log-likelihood.
  """
  inputs, outputs = _forward(layers, params, clips)
  feature = inputs[-1].reshape(-1)
  scale = _still(_rms(feature))
  signs = target.signs
  open_signs = outputs[-1].reshape(-1) if all_leaves else target.likely
  top = jnp.where(signs != 0, signs, open_signs)
  activate = layers[-2].activate
  spread = _still(_slope_for(activate, top, outputs[-1].reshape(-1)))
  misses = [_over(_beyond(feature, target.feature), jnp.hypot(
      target.feature.std, fade.top * scale * spread))]
  z, signs = outputs[-1], signs.reshape(outputs[-1].shape)
  top = top.reshape(z.shape)
  slope, doubt = _slope_for(activate, top, z), jnp.zeros_like(z)
  if all_leaves:
    soft, doubt = _smooth_slope(activate, top, fade.lower, z)
    slope = jnp.where(signs == 0, soft, slope)
    doubt = jnp.where(signs == 0, doubt, 0)
  down = target.slope.reshape(z.shape)
  dz, variance = down * slope, down ** 2 * doubt
  for i in range(len(layers) - 2, -1, -1):
    layer, tau = layers[i], fade.top if i == len(layers) - 2 else fade.lower
    weight = params[layer.name]['kernel']
    _, pull = jax.vjp(layer.linear, weight, inputs[i])
    kernel, down = pull(dz)
    misses.append(_kernel_residual(
        kernel, dz, inputs[i], variance, target.kernels[layer.name], tau,
        per_entry))
    if not all_leaves:
      break
    bias, axes = target.biases[layer.name], tuple(range(dz.ndim - 1))
    misses.append(_over(_beyond(dz.sum(axes), bias), jnp.sqrt(
        bias.std ** 2 + (fade.lower * bias.rms) ** 2 + _still(
            variance.sum(axes)))))
    if i:
      z = outputs[i - 1]
      slope, doubt = _smooth_slope(
          layers[i - 1].activate, z, fade.lower, z)
      below, = jax.linear_transpose(
          lambda x, layer=layer, weight=weight: layer.linear(weight ** 2, x),
          inputs[i])(_still(variance))
      dz = down * slope
      variance = _still(down ** 2 * doubt + slope ** 2 * below)
  return misses


def features(layers: tuple[Layer, ...], params: Params, clips: Array) -> Array:
  """The head's input [F] for clips [1, T, H, W, C]."""
  return _forward(layers, params, clips)[0][-1].reshape(-1)


def _forward(layers, params, clips):
  """([inputs of each layer and of the head], [outputs before activation])."""
  inputs, outputs = [clips.reshape(-1, *layers[0].in_shape)], []
  for layer in layers[:-1]:
    leaves = params[layer.name]
    outputs.append(layer.linear(leaves['kernel'], inputs[-1]) + leaves['bias'])
    inputs.append(layer.activate(outputs[-1]))
  return inputs, outputs


def _beyond(value, entries):
  return value - jnp.clip(value, entries.low, entries.high)


def _over(difference, std):
  return (difference / std).reshape(-1)


def _kernel_residual(kernel, dz, x, variance, entries, tau, per_entry):
  difference, channels = _beyond(kernel, entries), dz.shape[-1]
  rows, power = dz.reshape(-1, channels), jnp.mean(x ** 2)
  spread = tau ** 2 * power * rows.T @ rows + power * jnp.diag(
      variance.reshape(-1, channels).sum(0))
  spread = _still(spread)
  ridge = _RIDGE * jnp.trace(spread)
  if per_entry:  # clipped entries say too little to mix channels
    return _over(difference, jnp.sqrt(
        jnp.diag(spread) + ridge + entries.std ** 2))
  values, vectors = jnp.linalg.eigh(
      spread + (entries.typical ** 2 + ridge) * jnp.eye(channels))
  values = jnp.maximum(values, _RIDGE * values[-1])
  white = _still(vectors * lax.rsqrt(values))
  return (difference.reshape(-1, channels) @ white).reshape(-1)


def _slope_at(activate, z):
  return jax.jvp(activate, (z,), (jnp.ones_like(z),))[1]


def _sides(activate):
  """Slopes beside 0: they differ where the activation has a kink."""
  low, high = _slope_at(activate, jnp.array([-1e-4, 1e-4]))
  return low, high


def _slope_for(activate, signs, z):
  """The slope of a kinked activation by a sign, of a smooth one at z."""
  low, high = _sides(activate)
  kinked = jnp.abs(high - low) > 0.1
  smooth = _still(_slope_at(activate, z))
  return jnp.where(kinked, jnp.where(signs > 0, high, low), smooth)


def _smooth_slope(activate, signs, tau, z):
  """(the slope with its jump at 0 smoothed over tau, its variance)."""
  low, high = _sides(activate)
  kinked = jnp.abs(high - low) > 0.1
  chance = jax.nn.sigmoid(1.7 * signs / (tau * _still(_rms(z))))
  slope = jnp.where(
      kinked, low + (high - low) * chance, _slope_at(activate, z))
  doubt = jnp.where(kinked, chance * (1 - chance) * (high - low) ** 2, 0)
  return slope, _still(doubt)


def _still(value):
  return lax.stop_gradient(value)


def _rms(array):
  return jnp.sqrt(jnp.mean(array ** 2) + 1e-20)
