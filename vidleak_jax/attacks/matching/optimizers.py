"""What moves a guess downhill: optax chains by name."""

import math

import jax
import jax.numpy as jnp
import optax

from vidleak_jax.types import Array, UserError, is_off, pick

# Until which share of the coarse steps these blocks (frames, rows, columns)
# move as one: smaller ones after larger ones.
_BLOCKS = (1.0, (1, 2, 2)), (0.5, (2, 4, 4))


def build(
    name: str, peak: float, num_steps: int, *, schedule: str,
    warmup_steps: int, beta2: float, memory: int, coarse: float = 0.0,
) -> optax.GradientTransformation:
  """One of `OPTIMIZERS`.

  Args:
    name: which.
    peak: learning rate after the warm-up; L-BFGS searches its own.
    num_steps: after which the schedule has ended.
    schedule: a name of `SCHEDULES`.
    warmup_steps: of a linear rise from 0.
    beta2: Adam's memory of squared gradients.
    memory: how many past steps L-BFGS keeps.
    coarse: share of the steps that go from coarse to fine, see
      `coarse_to_fine`; 0 for none.

  Raises:
    UserError: for an unknown name or schedule, or L-BFGS with `coarse`.
  """
  rate = pick(SCHEDULES, schedule, 'schedule')(
      peak, max(1, num_steps - warmup_steps))
  if warmup_steps:
    rise = optax.linear_schedule(0.0, peak, warmup_steps)
    rate = optax.join_schedules([rise, rate], [warmup_steps])
  optimizer = pick(OPTIMIZERS, name, 'optimizer')(rate, beta2, memory)
  if is_off(coarse):
    return optimizer
  if name == 'lbfgs':
    raise UserError('L-BFGS cannot go from coarse to fine: its line search '
                    'needs the whole gradient. Set coarse=0 or choose adam.')
  return optax.chain(coarse_to_fine(coarse * num_steps), optimizer)


def coarse_to_fine(num_steps: float | Array) -> optax.GradientTransformation:
  """Averages the gradient of clips over blocks of time and space.

  Each block then moves as one pixel would: what is large is found first.

  Args:
    num_steps: after which each pixel moves by itself.
  """

  def init(moving):
    del moving
    return jnp.zeros((), jnp.int32)

  def update(grads, step, moving=None):
    del moving
    def coarsen(grad):
      out = grad
      if grad.ndim == 5:  # soft labels have 2
        for share, block in _BLOCKS:
          out = jnp.where(
              step < share * num_steps, _averaged(grad, block), out)
      return out
    return jax.tree.map(coarsen, grads), step + 1

  return optax.GradientTransformation(init, update)


def _averaged(clips, block):
  """The mean of each block in its place; blocks are cut to what divides."""
  split = []
  for length, size in zip(clips.shape, (1, *block, 1)):
    size = math.gcd(length, size)
    split += [length // size, size]
  means = clips.reshape(split).mean(range(1, 10, 2), keepdims=True)
  return jnp.broadcast_to(means, split).reshape(clips.shape)


def _geometric(peak, num_steps):
  """Falls by the same factor each step, to a millionth."""
  return optax.exponential_decay(peak, num_steps, 1e-6)


def _steps(peak, num_steps):
  """A tenth at 3/8, 5/8 and 7/8: Inverting Gradients (2003.14053)."""
  return optax.piecewise_constant_schedule(
      peak, {num_steps * eighths // 8: 0.1 for eighths in (3, 5, 7)})


SCHEDULES = {
    'constant': lambda peak, num_steps: optax.constant_schedule(peak),
    'cosine': optax.cosine_decay_schedule,
    'geometric': _geometric,
    'steps': _steps,
}

OPTIMIZERS = {
    'adam': lambda rate, beta2, memory: optax.adam(rate, b2=beta2),
    'signed_adam': lambda rate, beta2, memory: optax.chain(
        optax.scale_by_sign(), optax.adam(rate, b2=beta2)),
    'lbfgs': lambda rate, beta2, memory: optax.lbfgs(memory_size=memory),
}
