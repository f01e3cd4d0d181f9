"""What a guess should show through its gradients, and how far off it is.

Residuals are compared over their standard deviation: the defence's, and what an
error tau in the guess's own features would make. For the gradient of a kernel,
`dW = sum_p x_p (x) dz_p`, that is a covariance `tau^2 dz^T dz` between output
channels. With tau falling, a match that whitens channels becomes maximum
likelihood.

Gradients of lower kernels jump where a kinked unit changes its sign. So the
slopes of all units are unknowns of their own, beside the pixels: a share p of
the way from one slope to the other, which a guess that is off by tau expects
within `sqrt(p (1 - p))`. Kernels and pixels settle them together.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from vidleak_jax.attacks.matching.most_likely import expected_slope
from vidleak_jax.types import Array, Layer, Params

_RIDGE = 1e-7   # of the largest eigenvalue
_SURE = 1e-3    # std of the share of a unit far from 0
_PINNED = 1e-6  # and of one whose sign the head shows


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
  onehot: Array                  # [K], of the label
  kernels: dict[str, Entries]    # by layer
  biases: dict[str, Entries]


def top_misses(
    layers: tuple[Layer, ...], params: Params, target: Target, clips: Array,
    tau: Array, *, per_entry: bool,
) -> list[Array]:
  """Differences of features and of the last kernel's gradient, over their std.

  Args:
    layers: a chain of convolutions, the dense head last.
    params: the weights.
    target: what is observed.
    clips: [1, T, H, W, C] in [0, 1].
    tau: [] error of the guess's features, over their root mean square.
    per_entry: whether each entry has its own std; else those of one kernel are
      whitened together.

  Returns:
    Vectors; half the sum of their squares is a negative log-likelihood.
  """
  inputs, outputs = _forward(layers, params, clips)
  feature, z = inputs[-1].reshape(-1), outputs[-1]
  signs = jnp.where(target.signs != 0, target.signs, target.likely)
  slope = _slope_between(
      layers[-2].activate, signs.reshape(z.shape) > 0, _still(z))
  dz = target.slope.reshape(z.shape) * slope
  last, x = layers[-2], inputs[-2]
  kernel, _ = _pull(last, params, x, dz)
  return [
      _over(_beyond(feature, target.feature), jnp.hypot(
          target.feature.std,
          tau * _still(_rms(feature) * slope.reshape(-1)))),
      _kernel_miss(kernel, dz, x, target.kernels[last.name], tau, per_entry)]


def expected_shares(
    layers: tuple[Layer, ...], params: Params, target: Target, clips: Array,
    tau: Array,
) -> tuple[list[Array], list[Array]]:
  """What a guess that is off by tau expects of its slopes.

  Args:
    layers: as above, and the next ones.
    params: the weights.
    target: what is observed.
    clips: [1, T, H, W, C] in [0, 1].
    tau: [] error of each layer's outputs, over their root mean square.

  Returns:
    Of each convolution's units, as its outputs, the share of the way from the
    slope below 0 to that above, and its standard deviation.
  """
  return _shares(_forward(layers, params, clips)[1], target, tau)


def all_misses(
    layers: tuple[Layer, ...], params: Params, target: Target, clips: Array,
    shares: list[Array], tau: Array, error: Array,
) -> list[Array]:
  """Differences of all leaves' gradients and of slopes, over their std.

  Args:
    layers: as above, and the next ones.
    params: the weights.
    target: what is observed.
    clips: [1, T, H, W, C] in [0, 1].
    shares: of slopes, see `expected_shares`.
    tau: [] of slopes.
    error: [] of the guess's features, over their root mean square.

  Returns:
    Vectors; half the sum of their squares is a negative log-likelihood.
  """
  inputs, outputs = _forward(layers, params, clips)
  feature = inputs[-1].reshape(-1)
  slope = _slope_between(layers[-2].activate, shares[-1], outputs[-1])
  misses = [_over(_beyond(feature, target.feature), jnp.hypot(
      target.feature.std, error * _still(_rms(feature) * slope.reshape(-1))))]
  head = params[layers[-1].name]
  chance = jax.nn.softmax(feature @ head['kernel'] + head['bias'])
  down = (head['kernel'] @ (chance - target.onehot)).reshape(outputs[-1].shape)
  for layer, x, z, share in reversed(list(zip(
      layers[:-1], inputs, outputs, shares))):
    dz = down * _slope_between(layer.activate, share, z)
    kernel, down = _pull(layer, params, x, dz)
    misses.append(_kernel_miss(
        kernel, dz, x, target.kernels[layer.name], error, per_entry=True))
    bias = target.biases[layer.name]
    misses.append(_over(
        _beyond(dz.sum(tuple(range(dz.ndim - 1))), bias),
        jnp.hypot(bias.std, error * bias.rms)))
  return misses + [
      _over(share - p, std) for share, p, std in zip(
          shares, *_shares(outputs, target, tau))]


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


def _shares(outputs, target, tau):
  shares, stds = map(list, zip(*(
      expected_slope(z, tau, _SURE) for z in outputs)))
  signs = target.signs.reshape(outputs[-1].shape)
  shares[-1] = jnp.where(
      signs == 0, shares[-1], (signs > 0).astype(signs.dtype))
  stds[-1] = jnp.where(signs == 0, stds[-1], _PINNED)
  return shares, stds


def _beyond(value, entries):
  return value - jnp.clip(value, entries.low, entries.high)


def _over(difference, std):
  return (difference / std).reshape(-1)


def _pull(layer, params, x, dz):
  """(gradient of the layer's kernel, of its input)."""
  _, pull = jax.vjp(layer.linear, params[layer.name]['kernel'], x)
  return pull(dz)


def _kernel_miss(kernel, dz, x, entries, tau, per_entry):
  difference, channels = _beyond(kernel, entries), dz.shape[-1]
  rows, power = dz.reshape(-1, channels), jnp.mean(x ** 2)
  spread = _still(tau ** 2 * power * rows.T @ rows)
  ridge = _RIDGE * jnp.trace(spread)
  if per_entry:
    return _over(difference, jnp.sqrt(
        jnp.diag(spread) + ridge + entries.std ** 2))
  values, vectors = jnp.linalg.eigh(
      spread + (entries.typical ** 2 + ridge) * jnp.eye(channels))
  values = jnp.maximum(values, _RIDGE * values[-1])
  white = _still(vectors * lax.rsqrt(values))
  return (difference.reshape(-1, channels) @ white).reshape(-1)


def _slope_at(activate, z):
  return jax.jvp(activate, (z,), (jnp.ones_like(z),))[1]


def _slope_between(activate, share, z):
  """The slope of a kinked activation by a share, of a smooth one at z."""
  low, high = _slope_at(activate, jnp.array([-1e-4, 1e-4]))
  kinked = jnp.abs(high - low) > 0.1
  return jnp.where(kinked, low + (high - low) * share, _slope_at(activate, z))


def _still(value):
  return lax.stop_gradient(value)


def _rms(array):
  return jnp.sqrt(jnp.mean(array ** 2) + 1e-20)
