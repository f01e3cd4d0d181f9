"""Total variation of fixed weights: a prior for guesses far from the clip.

Near it, `video_prior` says more.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from vidleak_jax.types import Array


class Prior(NamedTuple):
  """Total variation, whose colours share their edges."""
  time: float = 2.0     # weight of differences over time
  space: float = 0.7    # of differences over rows and columns
  corner: float = 2e-3  # length below which it is quadratic


def variation(prior: Prior, clips: Array) -> Array:
  """Returns the total variation of clips [B, T, H, W, C]."""
  return sum(w * jnp.sum(_lengths(prior, d)) for w, d in zip(
      _weights(prior), _differences(clips)))


def rows(prior: Prior, clips: Array) -> list[Array]:
  """Returns rows whose squares have twice the gradient of `variation`.

  `sum w |d|` has the gradient of `sum w d^2 / (2 |d_now|)`.
  """
  return [jnp.sqrt(w / lax.stop_gradient(_lengths(prior, d))) * d
          for w, d in zip(_weights(prior), _differences(clips))]


def _differences(clips):
  return [jnp.diff(clips, axis=axis) for axis in (1, 2, 3)]


def _weights(prior):
  return prior.time, prior.space, prior.space


def _lengths(prior, difference):
  """Of differences, [..., 1]: the colours of a video share their edges."""
  square = jnp.sum(difference ** 2, -1, keepdims=True)
  return jnp.sqrt(square + prior.corner ** 2)
