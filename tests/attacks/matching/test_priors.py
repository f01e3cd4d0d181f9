"""Every prior keeps the same contract."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidleak_jax.attacks.matching.priors import PRIORS
from vidleak_jax.types import Guess

LABELS = jnp.zeros((2,), jnp.int32)


def _guess(clips):
  return Guess(jnp.asarray(clips, jnp.float32), LABELS)


@pytest.mark.parametrize('name', PRIORS)
def test_a_still_clip_of_one_colour_scores_0(name):
  clips = jnp.full((2, 4, 8, 8, 3), 0.3)
  value, slope = jax.value_and_grad(
      lambda clips: PRIORS[name].term(_guess(clips), None))(clips)
  assert value == 0
  chex.assert_tree_all_finite(slope)


@pytest.mark.parametrize('name', PRIORS)
def test_noise_scores_more_than_a_smooth_clip(name):
  noise = jax.random.uniform(jax.random.key(0), (2, 4, 8, 8, 3))
  ramp = jnp.broadcast_to(jnp.linspace(0, 1, 8)[:, None], noise.shape)
  term = PRIORS[name].term
  assert term(_guess(noise), None) > term(_guess(ramp), None)


@pytest.mark.parametrize('name', PRIORS)
def test_one_frame_is_enough(name):
  clips = jax.random.uniform(jax.random.key(0), (2, 1, 8, 8, 3))
  assert jnp.isfinite(PRIORS[name].term(_guess(clips), None))


def test_variation_by_hand():
  clips = np.zeros((2, 2, 2, 2, 1))
  clips[:, 1] = 1.0  # dark, then bright
  assert PRIORS['temporal_tv'].term(_guess(clips), None) == 1.0
  assert PRIORS['spatial_tv'].term(_guess(clips), None) == 0.0
