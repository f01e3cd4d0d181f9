"""One training step: pure, on one device of several."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.flatten_util import ravel_pytree

from vidleak_jax.superres import degrade, losses
from vidleak_jax.superres.network import Network
from vidleak_jax.superres.spec import Objective
from vidleak_jax.types import Array, Params, PRNGKey

_AXIS = 'devices'  # of parallel.on_devices
_TINY = 1e-12  # gradients of 0 stay 0
_PERIOD = 16   # pixels between those that all strides of VGG-19 and fewer see


class State(NamedTuple):
  """All that training changes; the same on every device."""
  step: Array            # [] int32
  params: Params
  opt_state: Any
  ema: Params            # running average of params: what is kept in the end
  discriminator: Params          # the discriminator's; () in the first stage
  disc_opt_state: Any


class Pool(NamedTuple):
  """What batches are drawn from, uint8."""
  small: Array  # [N, F, h, w, C]
  large: Array  # [N, H, W, C], the middle frame


def one_step(
    network: Network, optimizer: optax.GradientTransformation,
    objective: Objective, *, batch_size: int, max_noise: float, ema: float,
    features: Callable | None = None, discriminate: Callable | None = None,
    disc_optimizer: optax.GradientTransformation | None = None,
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
    discriminate: (params, key, frames) -> logits, where there is a GAN.
    disc_optimizer: of the discriminator.
  """

  def terms_of(state, key, truth):
    terms = {'l1': lambda frames: losses.l1(frames, truth)}
    if objective.perceptual:
      # Strided layers see some pixels more than others: on a still grid, that
      # draws the grid onto the frames.
      shift = jax.random.randint(jax.random.fold_in(key, 4), (2,), 0, _PERIOD)
      rolled = lambda frames: jnp.roll(frames, shift, (1, 2))  # noqa: E731
      terms['perceptual'] = lambda frames: losses.perceptual(
          features, rolled(frames), rolled(truth))
    if objective.gan:
      logits = lambda number, frames: discriminate(  # noqa: E731
          state.discriminator, jax.random.fold_in(key, number), frames)
      real = logits(0, truth)
      terms['gan'] = lambda frames: losses.generator_loss(
          real, logits(1, frames))
    return terms

  def disc_loss(params, key, frames, truth):
    return losses.discriminator_loss(
        discriminate(params, jax.random.fold_in(key, 2), truth),
        discriminate(params, jax.random.fold_in(key, 3), frames))

  def step(state, pool, key):
    key = jax.random.fold_in(key, state.step)
    key = jax.random.fold_in(key, lax.axis_index(_AXIS))
    key, seen = jax.random.split(key)
    windows, noise, truth = draw(key, pool, batch_size, max_noise)
    frames, back = jax.vjp(
        lambda params: network.apply(params, windows, noise), state.params)
    total, terms = balanced(objective, terms_of(state, seen, truth), frames)
    grads, disc_grads = back(total)[0], state.discriminator
    if objective.gan:
      terms['discriminator'], disc_grads = jax.value_and_grad(disc_loss)(
          state.discriminator, seen, frames, truth)
    # In one piece: collectives that wait for each other can take all of a CPU's
    # threads, and then none is left to arrive.
    flat, unravel = ravel_pytree((grads, disc_grads, terms))
    grads, disc_grads, terms = unravel(lax.pmean(flat, _AXIS))
    params, opt_state = _updated(
        optimizer, grads, state.opt_state, state.params)
    state = state._replace(
        step=state.step + 1, params=params, opt_state=opt_state,
        ema=optax.incremental_update(params, state.ema, 1 - ema))
    if objective.gan:
      params, opt_state = _updated(
          disc_optimizer, disc_grads, state.disc_opt_state,
          state.discriminator)
      state = state._replace(discriminator=params, disc_opt_state=opt_state)
    return state, terms

  return step


def balanced(objective: Objective, terms: dict[str, Callable], frames: Array,
             ) -> tuple[Array, dict[str, Array]]:
  """(the objective's gradient on the frames, values of the terms)."""
  found = {k: jax.value_and_grad(term)(frames) for k, term in terms.items()}
  unit = jnp.linalg.norm(found['l1'][1])
  total = sum(
      getattr(objective, k) * unit / (jnp.linalg.norm(grad) + _TINY) * grad
      for k, (_, grad) in found.items())
  return total, {k: value for k, (value, _) in found.items()}


def _updated(optimizer, grads, opt_state, params):
  updates, opt_state = optimizer.update(grads, opt_state, params)
  return optax.apply_updates(params, updates), opt_state


def draw(key: PRNGKey, pool: Pool, batch_size: int, max_noise: float,
         ) -> tuple[Array, Array, Array]:
  """A batch: windows [B, F, h, w, C], noise [B], truth [B, H, W, C]."""
  which, turn, strength, degrade_key = jax.random.split(key, 4)
  rows = jax.random.randint(which, (batch_size,), 0, len(pool.small))
  small, large = (x[rows].astype(jnp.float32) / 255 for x in pool)
  small, large = jax.vmap(_augment)(
      jax.random.split(turn, batch_size), small, large)
  noise = jnp.maximum(0, max_noise * jax.random.uniform(
      strength, (batch_size,), minval=-0.5))
  return degrade.residual(degrade_key, small, noise), noise, large


def _augment(key, small, large):
  """Mirrors, turns, plays backwards, swaps colours, darkens: all at random."""
  flips, shuffle, dim = jax.random.split(key, 3)
  coins = jax.random.bernoulli(flips, shape=(4,))
  colours = jax.random.permutation(shuffle, large.shape[-1])
  gain = jax.random.uniform(dim, minval=0.6, maxval=1.0)

  def change(x):
    x = jnp.where(coins[0], x[..., ::-1, :], x)
    x = jnp.where(coins[1], x[..., ::-1, :, :], x)
    x = jnp.where(coins[2], jnp.swapaxes(x, -2, -3), x)
    return gain * x[..., colours]

  return change(jnp.where(coins[3], small[::-1], small)), change(large)
