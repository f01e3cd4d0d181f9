"""Adapts a network to a scene, from real frames of it that the attacker holds.

A reference is cut into crops that drift as a camera does, the crops are shrunk
as the recovery was (with its errors, where it has any), and the network learns
for some hundred small steps to give the reference back (in the spirit of
zero-shot super-resolution, 1712.06087, which has the small frame only).
"""

import functools

import jax
import jax.numpy as jnp
import optax

from vidleak_jax.runtime.session import Report
from vidleak_jax.superres import degrade, losses
from vidleak_jax.superres.network import Network
from vidleak_jax.types import Array, Params, PRNGKey

NUM_STEPS = 300
_LEARNING_RATE = 1e-3
_BATCH_SIZE = 4
_CROP = 96   # large pixels of a crop's side, at most
# Of the references' shorter side, at most: crops that show all of it stand at
# one phase to the small pixels, and what is learnt there costs a decibel.
_SHARE = 0.75
_SPEED = 6   # large pixels a frame, at most
_MOVING = 0.75  # of the crops; the others stand still


def adapt(
    network: Network, params: Params, references: Array, *, noise: float = 0.0,
    num_steps: int = NUM_STEPS, progress: Report | None = None,
) -> Params:
  """The params after `num_steps` on crops of the references; same every time.

  Args:
    network: whose params these are.
    params: to start from; 0 steps give them back.
    references: [R, H, W, C] in [0, 1], sides multiples of the scale.
    noise: standard deviation of the errors that the crops get; 0 for none.
    num_steps: of Adam, on L1.
    progress: hears how far it has come, see `session.Report`.
  """
  if not num_steps:
    return params
  init, step = _trainer(network, num_steps, noise > 0)
  references, state = jnp.asarray(references), (params, init(params))
  for i in range(num_steps):
    key = jax.random.fold_in(jax.random.key(0), i)
    state = step(*state, key, references, noise)
    if progress:
      progress('adapt', i + 1, num_steps)
  return state[0]


@functools.lru_cache(maxsize=8)
def _trainer(network, num_steps, noisy):
  """(init, step) of one optimiser, compiled once for all scenes."""
  optimizer = optax.adam(
      optax.cosine_decay_schedule(_LEARNING_RATE, num_steps))

  @jax.jit
  def step(params, opt_state, key, references, noise):
    cut, degrade_key = jax.random.split(key)
    crops = draw(cut, references, network.frames, network.scale)
    windows = degrade.bicubic(crops, network.scale)
    level = jnp.full(_BATCH_SIZE, noise)
    if noisy:
      windows = degrade.residual(degrade_key, windows, level)

    def loss(params):
      frames = network.apply(params, windows, level)
      return losses.l1(frames, crops[:, network.frames // 2])
    updates, opt_state = optimizer.update(jax.grad(loss)(params), opt_state)
    return optax.apply_updates(params, updates), opt_state

  return optimizer.init, step


def draw(key: PRNGKey, references: Array, num_frames: int,
         scale: int) -> Array:
  """Drifting crops [_BATCH_SIZE, num_frames, S, S, C] of [R, H, W, C]."""
  shorter = min(references.shape[1:3])
  side = min(_CROP, int(_SHARE * shorter)) // scale * scale
  room = num_frames // 2 * _SPEED
  wide = jnp.pad(references, ((0, 0), (room, room), (room, room), (0, 0)),
                 'reflect')

  def one(key):
    which, start, drift, coin, turn = jax.random.split(key, 5)
    limits = jnp.array(references.shape[1:3]) - side + 1
    moves = jax.random.bernoulli(coin, _MOVING)
    speed = moves * jax.random.randint(drift, (2,), -_SPEED, _SPEED + 1)
    begin = room + jax.random.randint(start, (2,), 0, limits)
    index = jax.random.randint(which, (), 0, len(references))
    time = jnp.arange(num_frames) - num_frames // 2
    crops = jax.vmap(lambda at: jax.lax.dynamic_slice(
        wide, (index, *at, 0), (1, side, side, wide.shape[-1]))[0])(
            begin + time[:, None] * speed)
    return jnp.where(jax.random.bernoulli(turn), crops[:, :, ::-1], crops)

  return jax.vmap(one)(jax.random.split(key, _BATCH_SIZE))
