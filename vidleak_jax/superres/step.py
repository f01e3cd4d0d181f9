"""One training step: pure, on one device of several."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from vidleak_jax.superres import degrade, losses
from vidleak_jax.superres.network import Network
from vidleak_jax.types import Array, Params, PRNGKey

_AXIS = 'devices'  # of parallel.on_devices


class State(NamedTuple):
  """All that training changes; the same on every device."""
  step: Array            # [] int32
  params: Params
  opt_state: Any
  ema: Params            # running average of params: what is kept in the end
  rival: Params          # the discriminator's; () in the first stage
  rival_opt_state: Any


class Objective(NamedTuple):
  """Weights of the terms; 0 leaves one out."""
  l1: float = 1.0
  gan: float = 0.0
  perceptual: float = 0.0


class Pool(NamedTuple):
  """What batches are drawn from, uint8."""
  small: Array  # [N, F, h, w, C]
  large: Array  # [N, H, W, C], the middle frame


def one_step(
    network: Network, optimizer: optax.GradientTransformation,
    objective: Objective, *, batch_size: int, max_noise: float, ema: float,
    features: Callable | None = None, rival: Callable | None = None,
    rival_optimizer: optax.GradientTransformation | None = None,
) -> Callable[[State, Pool, PRNGKey], tuple[State, dict[str, Array]]]:
  """Returns `step(state, pool, key)`, to run under `parallel.on_devices`.

  Args:
    network: the generator.
    optimizer: of its params.
    objective: what is minimised.
    batch_size: frames a device sees in a step.
    max_noise: clips get residuals of strength 0 (every third) to this.
    ema: decay of the running average.
    features: of `perceptual.features`, where the objective asks for it.
    rival: (params, frames) -> logits, where the objective has a GAN.
    rival_optimizer: of the rival's params.
  """

  def generator_terms(params, state, windows, noise, truth):
    frames = network.apply(params, windows, noise)
    terms = {'l1': losses.l1(frames, truth)}
    if objective.perceptual:
      terms['perceptual'] = losses.perceptual(features, frames, truth)
    if objective.gan:
      terms['gan'] = losses.generator_loss(
          rival(state.rival, truth), rival(state.rival, frames))
    total = sum(getattr(objective, k) * v for k, v in terms.items())
    return total, (terms, frames)

  def rival_step(state, frames, truth):
    def loss(params):
      return losses.discriminator_loss(
          rival(params, truth), rival(params, lax.stop_gradient(frames)))
    value, grads = jax.value_and_grad(loss)(state.rival)
    updates, opt_state = rival_optimizer.update(
        lax.pmean(grads, _AXIS), state.rival_opt_state, state.rival)
    return {'rival': value}, state._replace(
        rival=optax.apply_updates(state.rival, updates),
        rival_opt_state=opt_state)

  def step(state, pool, key):
    key = jax.random.fold_in(key, state.step)
    key = jax.random.fold_in(key, lax.axis_index(_AXIS))
    windows, noise, truth = draw(key, pool, batch_size, max_noise)
    grads, (terms, frames) = jax.grad(generator_terms, has_aux=True)(
        state.params, state, windows, noise, truth)
    updates, opt_state = optimizer.update(
        lax.pmean(grads, _AXIS), state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    state = state._replace(
        step=state.step + 1, params=params, opt_state=opt_state,
        ema=optax.incremental_update(params, state.ema, 1 - ema))
    if objective.gan:
      more, state = rival_step(state, frames, truth)
      terms |= more
    return state, lax.pmean(terms, _AXIS)

  return step


def draw(key: PRNGKey, pool: Pool, batch_size: int, max_noise: float,
         ) -> tuple[Array, Array, Array]:
  """A batch: windows [B, F, h, w, C], noise [B], truth [B, H, W, C]."""
  which, turn, strength, dirt = jax.random.split(key, 4)
  rows = jax.random.randint(which, (batch_size,), 0, len(pool.small))
  small, large = (x[rows].astype(jnp.float32) / 255 for x in pool)
  small, large = jax.vmap(_augment)(
      jax.random.split(turn, batch_size), small, large)
  noise = jnp.maximum(0, max_noise * jax.random.uniform(
      strength, (batch_size,), minval=-0.5))
  return degrade.residual(dirt, small, noise), noise, large


def _augment(key, small, large):
  """Mirrors, turns, plays backwards, swaps colours, darkens: all at random."""
  coins = jax.random.bernoulli(key, shape=(4,))
  shuffle, dim = jax.random.split(key)
  colours = jax.random.permutation(shuffle, large.shape[-1])
  gain = jax.random.uniform(dim, minval=0.6, maxval=1.0)

  def change(x):
    x = jnp.where(coins[0], x[..., ::-1, :], x)
    x = jnp.where(coins[1], x[..., ::-1, :, :], x)
    x = jnp.where(coins[2], jnp.swapaxes(x, -2, -3), x)
    return gain * x[..., colours]

  return change(jnp.where(coins[3], small[::-1], small)), change(large)
