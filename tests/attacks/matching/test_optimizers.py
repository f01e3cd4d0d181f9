"""From coarse to fine: blocks move as one, then by themselves."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vidleak_jax.attacks.matching import optimizers
from vidleak_jax.types import UserError

CHOICES = {'schedule': 'constant', 'warmup_steps': 0, 'beta2': 0.999,
           'memory': 5}


def _moved(coarse, num_steps, shape=(1, 4, 8, 8, 3)):
  """What each step of ten adds to clips, for gradients of noise."""
  rng = np.random.default_rng(0)
  moving = {'clips': jnp.zeros(shape), 'labels': jnp.zeros((1, 5))}
  optimizer = optimizers.build('adam', 0.1, 10, coarse=coarse, **CHOICES)
  state, steps = optimizer.init(moving), []
  for _ in range(num_steps):
    noise = {name: jnp.asarray(rng.normal(size=x.shape), jnp.float32)
             for name, x in moving.items()}
    step, state = optimizer.update(noise, state, moving)
    steps.append(step)
  return steps


def _is_flat(clips, *block):
  """Whether all blocks (frames, rows, columns) are of one value a colour."""
  first = clips[:, ::block[0], ::block[1], ::block[2]]
  for axis, size in enumerate(block, 1):
    first = np.repeat(first, size, axis)
  return np.allclose(first, clips, atol=1e-6)


def test_blocks_shrink():
  steps = _moved(coarse=0.4, num_steps=5)
  flat = [(_is_flat(step['clips'], 2, 4, 4), _is_flat(step['clips'], 1, 2, 2))
          for step in steps]
  assert flat == [(True, True)] * 2 + [(False, True)] * 2 + [(False, False)]
  assert np.unique(steps[-1]['labels']).size == 5


def test_clips_that_no_block_divides_move_too():
  step, = _moved(coarse=1.0, num_steps=1, shape=(2, 1, 6, 5, 3))
  assert _is_flat(step['clips'], 1, 2, 1)
  assert not _is_flat(step['clips'], 1, 1, 5)


def test_without_it_nothing_is_averaged():
  plain = optax.adam(0.1)
  clips = {'clips': jnp.arange(192.0).reshape(1, 1, 8, 8, 3)}
  state = optimizers.build('adam', 0.1, 10, **CHOICES).init(clips)
  assert len(state) == len(plain.init(clips))
  assert not _is_flat(_moved(coarse=0.0, num_steps=1)[0]['clips'], 1, 2, 2)


def test_a_line_search_says_that_it_cannot():
  with pytest.raises(UserError, match='coarse=0'):
    optimizers.build('lbfgs', 1.0, 10, coarse=0.25, **CHOICES)
