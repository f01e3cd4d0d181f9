"""What moves a guess downhill: optax chains by name."""

import optax

from vidleak_jax.types import pick


def build(
    name: str, peak: float, num_steps: int, *, schedule: str,
    warmup_steps: int, beta2: float, memory: int,
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

  Raises:
    UserError: for an unknown name or schedule.
  """
  rate = pick(SCHEDULES, schedule, 'schedule')(
      peak, max(1, num_steps - warmup_steps))
  if warmup_steps:
    rise = optax.linear_schedule(0.0, peak, warmup_steps)
    rate = optax.join_schedules([rise, rate], [warmup_steps])
  return pick(OPTIMIZERS, name, 'optimizer')(rate, beta2, memory)


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
