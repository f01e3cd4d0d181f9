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
    Target,
    all_misses,
    expected_shares,
    top_misses,
)
from vidleak_jax.attacks.matching.variation import Prior, variation
from vidleak_jax.types import Array, Layer, Params

# (stage, steps done, steps in all, clips [1, T, H, W, C])
Progress = Callable[[str, int, int, Array], None]


class Stage(NamedTuple):
  """One descent on the top: what decides its program, besides shapes."""
  layers: tuple[Layer, ...]
  prior: Prior
  per_entry: bool   # or whitened between channels
  name: str
  steps: int
  rate: float
  weight: float     # of total variation
  errors: tuple[float, float]  # tau, from and to


def falling(errors: tuple[float, float], part: Array | float) -> Array:
  """Returns tau after a part of the steps, from 0 to 1."""
  start, end = errors
  return jnp.float32(start) * (end / start) ** jnp.minimum(part, 1.0)


def _objective(stage, params, target, clips, tau):
  misses = top_misses(stage.layers, params, target, clips, tau,
                      per_entry=stage.per_entry)
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
        stage, params, target, clips,
        falling(stage.errors, (done + i) / max(stage.steps, 1)))
    move, state = optimizer.update(slope, state)
    return (jnp.clip(clips + move, 0, 1), state), None
  return lax.scan(step, (clips, state), jnp.arange(chunk))[0]


@functools.partial(jax.jit, static_argnums=(0, 1))
def top_step(
    stage: Stage, inner: int, params: Params, target: Target, clips: Array,
    tau: Array, trust: Array,
) -> tuple[Array, Array, Array]:
  """One damped step of Gauss-Newton, see `most_likely.newton_step`.

  Args:
    stage: its residuals; its weight and its prior do not count.
    inner: conjugate gradients.
    params: the weights.
    target: what is observed.
    clips: [1, T, H, W, C].
    tau: error of the guess's features.
    trust: [] how far a pixel is expected to move.

  Returns:
    The clips after the step, the mean square of their residuals, and the trust
    for the next step.
  """
  def misses(clips):
    return top_misses(stage.layers, params, target, clips, tau,
                      per_entry=stage.per_entry)
  step = most_likely.newton_step(misses, inner, clips, trust)
  return step.clips, _mean(misses(step.clips)), step.trust


@functools.partial(jax.jit, static_argnums=0)
def mean_square(
    stage: Stage, params: Params, target: Target, clips: Array
) -> Array:
  """Mean square of the top's residuals, with the error of the stage's end."""
  return _mean(top_misses(stage.layers, params, target, clips,
                          jnp.float32(stage.errors[1]),
                          per_entry=stage.per_entry))


@functools.partial(jax.jit, static_argnums=0)
def slopes(layers: tuple[Layer, ...], params: Params, target: Target,
           clips: Array, tau: Array) -> list[Array]:
  """The shares of slopes that a guess expects; see `expected_shares`."""
  return expected_shares(layers, params, target, clips, tau)[0]


@functools.partial(jax.jit, static_argnums=(0, 1))
def joint_step(
    layers: tuple[Layer, ...], inner: int, params: Params, target: Target,
    clips: Array, shares: list[Array], tau: Array, error: Array, trust: Array,
    deviations: Array,
) -> tuple[Array, list[Array], Array, Array, Array]:
  """One damped step of Gauss-Newton on pixels and slopes.

  Args:
    layers: a chain of convolutions, the dense head last.
    inner: conjugate gradients.
    params: the weights.
    target: what is observed.
    clips: [1, T, H, W, C].
    shares: of slopes, see `defended_model.expected_shares`.
    tau: [] of slopes.
    error: [] of the guess's features.
    trust: [] how far a pixel is expected to move.
    deviations: [S, 1, T, H, W, C] samples of what noise leaves open, zeros at
      first.

  Returns:
    The clips and shares after the step, the mean square of the entries'
    residuals, and the trust and the deviations for the next step.
  """
  stds = expected_shares(layers, params, target, clips, tau)[1]

  def misses(clips, shares):
    return all_misses(layers, params, target, clips, shares, tau, error)
  step, shares = most_likely.joint_step(
      misses, inner, clips, shares, stds, trust, deviations)
  entries = misses(step.clips, shares)[:-len(shares)]
  return step.clips, shares, _mean(entries), step.trust, step.deviations


def _mean(misses):
  # Intervals that hold a guess say nothing about how well it agrees.
  count = sum(jnp.sum(r != 0) for r in misses)
  return sum(jnp.sum(r ** 2) for r in misses) / jnp.maximum(count, 1)
