"""The descents of the defended attack: Adam and Gauss-Newton, with a prior."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from vidleak_jax.attacks.matching import most_likely
from vidleak_jax.attacks.matching.defended_model import (
    Fade,
    Target,
    residuals,
)
from vidleak_jax.attacks.matching.variation import Prior, variation
from vidleak_jax.types import Array, Layer, Params

# (stage, steps done, steps in all, clips [1, T, H, W, C])
Progress = Callable[[str, int, int, Array], None]


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


def _misses(stage, params, target, clips, fade):
  return residuals(stage.layers, params, target, clips, fade,
                   all_leaves=stage.all_leaves, per_entry=stage.per_entry)


def _objective(stage, params, target, clips, fade):
  misses = _misses(stage, params, target, clips, fade)
  return sum(jnp.sum(r ** 2) for r in misses) / 2 + stage.weight * variation(
      stage.prior, clips)


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
    fade: Fade, trust: Array, deviations: Array | None = None,
) -> tuple[Array, Array, Array, Array | None]:
  """One damped step of Gauss-Newton, see `most_likely.newton_step`.

  Args:
    stage: its residuals; its weight and its prior do not count.
    inner: conjugate gradients.
    params: the weights.
    target: what is observed.
    clips: [1, T, H, W, C].
    fade: errors of the guess.
    trust: [] how far a pixel is expected to move.
    deviations: [S, 1, T, H, W, C] samples of what noise leaves open, zeros at
      first; None where entries are exact.

  Returns:
    The clips after the step, the mean square of their residuals, and the trust
    and the deviations for the next step.
  """
  def misses(clips):
    return _misses(stage, params, target, clips, fade)
  step = most_likely.newton_step(misses, inner, clips, trust, deviations)
  return step.clips, _mean(misses(step.clips)), step.trust, step.deviations


@functools.partial(jax.jit, static_argnums=0)
def mean_square(
    stage: Stage, params: Params, target: Target, clips: Array
) -> Array:
  """Mean square of the residuals, with the errors of the stage's end."""
  return _mean(_misses(stage, params, target, clips,
                       stage.fade(jnp.float32(stage.steps))))


def _mean(misses):
  return sum(jnp.sum(r ** 2) for r in misses) / sum(r.size for r in misses)
