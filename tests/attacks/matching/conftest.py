"""A toy attack that compiles in a blink: no victim, the same machinery."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vidleak_jax.attacks.matching import inversion
from vidleak_jax.types import Guess, Target

NUM_MESSAGES = 3
CLIP = (1, 2, 4, 4, 3)  # B, T, H, W, C
WIDTH = 5


def toy_inversion(optimizer=None, learning_rate=0.02):
  """Finds clips whose random projection is the update."""

  def objective(guess, target, step):
    del step
    seen = jnp.tanh(guess.clips.reshape(-1) @ target.params['w'])
    loss = jnp.sum((seen - target.evidence['w']) ** 2)
    return loss, loss, {'match': loss}
  return inversion.gradient_inversion(
      objective, optimizer or optax.adam(learning_rate),
      start=lambda key, template: Guess(
          0.5 + 0.2 * jax.random.normal(key, template.clips.shape),
          template.labels),
      project=lambda guess: guess._replace(clips=jnp.clip(guess.clips, 0, 1)))


@pytest.fixture
def toy_attack():
  return toy_inversion()


@pytest.fixture(scope='session')
def toy_target():
  rng = np.random.default_rng(0)
  w = rng.normal(size=(int(np.prod(CLIP)), WIDTH)).astype(np.float32) / 10
  clips = rng.uniform(size=(NUM_MESSAGES, len(w))).astype(np.float32)
  return Target({'w': w}, {'w': np.tanh(clips @ w)})


@pytest.fixture(scope='session')
def toy_templates():
  return Guess(np.zeros((NUM_MESSAGES, *CLIP), np.float32),
               np.zeros((NUM_MESSAGES, 1), np.int32))
