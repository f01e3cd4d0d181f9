"""An attack, a network, a defence and a prior that the package never saw.

This file is all there is of them; each is used by one line of a config.
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from vidleak_jax.attacks.base import Attack, Cost, Outcome
from vidleak_jax.options import option
from vidleak_jax.types import Recovery


@dataclasses.dataclass(frozen=True)
class Grey(Attack):
  """Answers with a clip of one grey: a floor."""
  name: ClassVar[str] = 'grey'
  cost: ClassVar[int] = 1
  level: float = option(0.5, 'of grey', low=0, high=1)

  def requires(self, victim, leak):
    return []

  def run(self, problem, effort):
    public = problem.leak.public
    shape = problem.leak.num_updates, public.batch_size
    clips = np.full((*shape, *public.clip_shape), self.level, np.float32)
    return Outcome(Recovery(clips, np.zeros(shape, np.int32),
                            np.full(shape[0], np.nan)), Cost(), {})


class Net(nn.Module):
  num_classes: int

  @nn.compact
  def __call__(self, clips):
    x = nn.tanh(nn.Dense(8)(clips.reshape(len(clips), -1)))
    return nn.Dense(self.num_classes)(x)


def make(num_classes):
  return Net(num_classes)


def halve():
  return optax.stateless(
      lambda updates, params: jax.tree.map(lambda leaf: leaf / 2, updates))


def acceleration(guess, target):
  return jnp.mean(jnp.abs(jnp.diff(guess.clips, n=2, axis=1)))
