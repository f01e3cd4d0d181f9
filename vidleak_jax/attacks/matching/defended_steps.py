"""The descents of the defended attack: Adam and Gauss-Newton, with a prior."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from vidleak_jax.attacks.matching.defended_model import (
    Fade,
    Target,
    residuals,
)
from vidleak_jax.types import Array, Layer, Params

_TRUST = 1e-3, 1.0  # bounds of how far a pixel is expected to move
_TRIES = 1.0, 0.7, 0.5, 0.3, 0.1, 0.0  # lengths of a step of Gauss-Newton

# (stage, steps done, steps in all, clips [1, T, H, W, C])
Progress = Callable[[str, int, int, Array], None]


class Prior(NamedTuple):
  """Total variation, whose colours share their edges."""
  time: float = 2.0     # weight of differences over time
  space: float = 0.7    # of differences over rows and columns
  corner: float = 2e-3  # length below which it is quadratic


class Stage(NamedTuple):
  """One stage of the descent: what decides its program, besides shapes."""
  layers: tuple[Layer, ...]
  prior: Prior
  all_leaves: bool  # or features and the last kernel alone
  per_entry: bool   # or whitened between channels
  name: str
  steps: int
  rate: float
  weight: float     # of total variation
  errors: tuple[float, float]
  lower: tuple[float, float] = (1.0, 1.0)

  def fade(self, step: Array) -> Fade:
    """The errors of the guess that are assumed at a step."""
    part = jnp.minimum(step / max(self.steps, 1), 1.0)
    return Fade(*(start * (end / start) ** part
                  for start, end in (self.errors, self.lower)))


def _differences(clips):
  return [jnp.diff(clips, axis=axis) for axis in (1, 2, 3)]


def _weights(stage):
  prior = stage.prior
  return [stage.weight * w for w in (prior.time, prior.space, prior.space)]


def _lengths(stage, difference):
  """Of differences, [..., 1]: the colours of a video share their edges."""
  square = jnp.sum(difference ** 2, -1, keepdims=True)
  return jnp.sqrt(square + stage.prior.corner ** 2)


def _misses(stage, params, target, clips, fade):
  return residuals(stage.layers, params, target, clips, fade,
                   all_leaves=stage.all_leaves, per_entry=stage.per_entry)


def _objective(stage, params, target, clips, fade):
  misses = _misses(stage, params, target, clips, fade)
  variation = sum(w * jnp.sum(_lengths(stage, d)) for w, d in zip(
      _weights(stage), _differences(clips)))
  return sum(jnp.sum(r ** 2) for r in misses) / 2 + variation


def adam(stage: Stage, params: Params, target: Target, clips: Array,
         chunk: int, report: Progress) -> Array:
  """Runs one stage of Adam in the box [0, 1], `chunk` steps a program."""
  state = _optimizer(stage).init(clips)
  for done in range(0, stage.steps, chunk):
    clips, state = _adam_chunk(
        stage, chunk, params, target, clips, state, jnp.float32(done))
    report(stage.name, min(done + chunk, stage.steps), stage.steps, clips)
  return clips


def _optimizer(stage):
  schedule = optax.cosine_decay_schedule(stage.rate, max(stage.steps, 1), 0.02)
  return optax.adam(schedule, b2=0.99)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _adam_chunk(stage, chunk, params, target, clips, state, done):
  optimizer = _optimizer(stage)

  def step(carry, i):
    clips, state = carry
    slope = jax.grad(_objective, argnums=3)(
        stage, params, target, clips, stage.fade(done + i))
    move, state = optimizer.update(slope, state)
    return (jnp.clip(clips + move, 0, 1), state), None
  return lax.scan(step, (clips, state), jnp.arange(chunk))[0]


@functools.partial(jax.jit, static_argnums=(0, 1))
def newton_step(
    stage: Stage, inner: int, params: Params, target: Target, clips: Array,
    fade: Fade, trust: Array,
) -> tuple[Array, Array, Array]:
  """One damped step of Gauss-Newton, total variation by reweighted squares.

  Entries that are half-lines count only where the guess violates them, so a
  long step may violate many others: pixels are held near where they are, to
  `trust`, which follows from how much of the last step held.

  Args:
    stage: its weight of total variation and its residuals.
    inner: conjugate gradients.
    params: the weights.
    target: what is observed.
    clips: [1, T, H, W, C].
    fade: errors of the guess.
    trust: [] how far a pixel is expected to move.

  Returns:
    The clips after the best of some lengths of the step, the mean square of
    their residuals, and the trust for the next step.
  """
  misses, forward = jax.linearize(
      lambda clips: _misses(stage, params, target, clips, fade), clips)
  backward = jax.linear_transpose(forward, clips)
  weights = [w / _lengths(stage, d) for w, d in zip(
      _weights(stage), _differences(clips))]

  def smooth(v):
    scaled = [w * d for w, d in zip(weights, _differences(v))]
    return jax.linear_transpose(_differences, v)(scaled)[0]

  move, _ = jax.scipy.sparse.linalg.cg(
      lambda v: backward(forward(v))[0] + smooth(v) + v / trust ** 2,
      -backward(misses)[0] - smooth(clips), maxiter=inner)
  tries = jnp.stack([jnp.clip(clips + a * move, 0, 1) for a in _TRIES])
  values = lax.map(
      lambda clips: _objective(stage, params, target, clips, fade), tries)
  best = jnp.nanargmin(values)
  clips = tries[best]
  length = jnp.array(_TRIES)[best]
  trust = jnp.clip(trust * jnp.where(length >= 0.7, 2.0, jnp.where(
      length >= 0.3, 1.0, 0.3)), *_TRUST)
  return clips, _mean(_misses(stage, params, target, clips, fade)), trust


@functools.partial(jax.jit, static_argnums=0)
def mean_square(
    stage: Stage, params: Params, target: Target, clips: Array
) -> Array:
  """Mean square of the residuals, with the errors of the stage's end."""
  return _mean(_misses(stage, params, target, clips,
                       stage.fade(jnp.float32(stage.steps))))


def _mean(misses):
  return sum(jnp.sum(r ** 2) for r in misses) / sum(r.size for r in misses)
