"""An iterative attack from its options: objective, optimizer, start, box.

A recipe's structure makes a program; its numbers are that program's arguments,
so that attacks of equal structure share one compile.
"""

from typing import Any

import jax
import jax.numpy as jnp

from vidleak_jax.attacks.matching import inversion, optimizers
from vidleak_jax.attacks.matching.match import Term
from vidleak_jax.attacks.matching.priors import PRIORS
from vidleak_jax.types import Guess, is_off, pick


def numbers(options: dict[str, Any]) -> dict[str, Any]:
  """The numbers of a recipe, or of any options: floats, but not 0.

  Everything else is structure; so is a 0, which leaves a term out.
  """
  found = {name: numbers(value) if isinstance(value, dict) else value
           for name, value in options.items()}
  return {name: value for name, value in found.items()
          if value and isinstance(value, float | dict)}


def with_numbers(options: dict[str, Any], own: dict[str, Any]
                 ) -> dict[str, Any]:
  """The options with those numbers in their places."""
  return {name: with_numbers(value, own.get(name, {}))
          if isinstance(value, dict) else own.get(name, value)
          for name, value in options.items()}


def build(
    match: Term,
    num_steps: int,
    *,
    priors: dict[str, float],
    prior_schedule: str,
    optimizer: str,
    learning_rate: float,
    schedule: str,
    warmup_steps: int,
    beta2: float,
    memory: int,
    start_mean: float,
    start_std: float,
    box: bool,
    coarse: float = 0.0,
) -> inversion.Attack:
  """A gradient-matching attack.

  Args:
    match: how far a guess is from the leak.
    num_steps: of the attack; the schedules end with it.
    priors: weights by name of `priors.PRIORS`.
    prior_schedule: how those weights fall, of `optimizers.SCHEDULES`.
    optimizer: of `optimizers.OPTIMIZERS`, with `learning_rate`, `schedule`,
      `warmup_steps`, `beta2` and `memory` as there.
    start_mean: of the first guess's pixels.
    start_std: their standard deviation.
    box: whether pixels are held in [0, 1].
    coarse: share of the steps that go from coarse to fine.

  Raises:
    UserError: for an unknown name.
  """
  terms = {'match': (1.0, match)}
  falling = pick(optimizers.SCHEDULES, prior_schedule, 'schedule')
  for name, weight in priors.items():
    if not is_off(weight):
      terms[name] = (falling(weight, num_steps), pick(PRIORS, name, 'prior'))
  return inversion.gradient_inversion(
      inversion.weighted_sum(num_steps, **terms),
      optimizers.build(optimizer, learning_rate, num_steps, schedule=schedule,
                       warmup_steps=warmup_steps, beta2=beta2, memory=memory,
                       coarse=coarse),
      start=_gaussian_start(start_mean, start_std),
      project=_box if box else lambda guess: guess)


def _gaussian_start(mean, std):
  """Pixels N(mean, std^2); soft labels, where there are any, N(0, 1)."""

  def start(key, template):
    clips_key, labels_key = jax.random.split(key)
    clips = mean + std * jax.random.normal(clips_key, template.clips.shape)
    labels = template.labels
    if not jnp.issubdtype(labels.dtype, jnp.integer):
      labels = jax.random.normal(labels_key, labels.shape)
    return Guess(clips, labels)
  return start


def _box(guess):
  return guess._replace(clips=jnp.clip(guess.clips, 0.0, 1.0))
