"""Total variation as a prior of video, and Gauss-Newton steps that heed it.

Its square roots are taken by reweighted squares, so that a step is a linear
problem: `sum w |d|` has the gradient of `sum w d^2 / (2 |d_now|)`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from vidleak_jax.types import Array

_TRUST = 1e-3, 1.0  # bounds of how far a pixel is expected to move
_TRIES = 1.0, 0.7, 0.5, 0.3, 0.1, 0.0  # lengths of a step of Gauss-Newton


class Prior(NamedTuple):
  """Total variation, whose colours share their edges."""
  time: float = 2.0     # weight of differences over time
  space: float = 0.7    # of differences over rows and columns
  corner: float = 2e-3  # length below which it is quadratic


class Step(NamedTuple):
  """What one step of Gauss-Newton came to."""
  clips: Array
  trust: Array  # [] how far a pixel is expected to move in the next
  value: Array  # [] the objective
  length: Array  # [] share of the step that was taken; 0: none lowers it


def variation(prior: Prior, clips: Array) -> Array:
  """Returns the total variation of clips [B, T, H, W, C]."""
  return sum(w * jnp.sum(_lengths(prior, d)) for w, d in zip(
      _weights(prior), _differences(clips)))


def rows(prior: Prior, clips: Array) -> list[Array]:
  """Returns rows whose squares have twice the gradient of `variation`."""
  return [jnp.sqrt(w / lax.stop_gradient(_lengths(prior, d))) * d
          for w, d in zip(_weights(prior), _differences(clips))]


def newton_step(
    misses: Callable[[Array], list[Array]], prior: Prior, weight: Array | float,
    inner: int, clips: Array, trust: Array,
) -> Step:
  """One damped step of Gauss-Newton in the box [0, 1].

  It lowers half the sum of squared misses plus the variation times its weight.
  Misses that are half-lines count only where a guess violates them, so a long
  step may violate many others: pixels are held near where they are, to `trust`,
  which follows from how much of the last step held.

  Args:
    misses: of clips, over their standard deviation.
    prior: the form of the variation.
    weight: of it.
    inner: conjugate gradients.
    clips: [B, T, H, W, C].
    trust: [] how far a pixel is expected to move.
  """
  now, forward = jax.linearize(misses, clips)
  backward = jax.linear_transpose(forward, clips)
  weights = [weight * w / _lengths(prior, d) for w, d in zip(
      _weights(prior), _differences(clips))]

  def smooth(v):
    scaled = [w * d for w, d in zip(weights, _differences(v))]
    return jax.linear_transpose(_differences, v)(scaled)[0]

  move, _ = jax.scipy.sparse.linalg.cg(
      lambda v: backward(forward(v))[0] + smooth(v) + v / trust ** 2,
      -backward(now)[0] - smooth(clips), maxiter=inner)
  tries = jnp.stack([jnp.clip(clips + a * move, 0, 1) for a in _TRIES])
  values = lax.map(
      lambda clips: objective(misses(clips), prior, weight, clips), tries)
  best = jnp.nanargmin(values)
  length = jnp.array(_TRIES)[best]
  trust = jnp.clip(trust * jnp.where(length >= 0.7, 2.0, jnp.where(
      length >= 0.3, 1.0, 0.3)), *_TRUST)
  return Step(tries[best], trust, values[best], length)


def objective(misses: list[Array], prior: Prior, weight: Array | float,
              clips: Array) -> Array:
  """Returns the negative logarithm of likelihood times prior."""
  return sum(jnp.sum(r ** 2) for r in misses) / 2 + weight * variation(
      prior, clips)


def _differences(clips):
  return [jnp.diff(clips, axis=axis) for axis in (1, 2, 3)]


def _weights(prior):
  return prior.time, prior.space, prior.space


def _lengths(prior, difference):
  """Of differences, [..., 1]: the colours of a video share their edges."""
  square = jnp.sum(difference ** 2, -1, keepdims=True)
  return jnp.sqrt(square + prior.corner ** 2)
