"""Degradations keep what they promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidleak_jax.superres import degrade, moving
from vidleak_jax.types import UserError


def _correlation(x, shift, axis):
  n = x.shape[axis]
  return np.mean(np.take(x, range(n - shift), axis)
                 * np.take(x, range(shift, n), axis)) / np.var(x)


def test_residuals_correlate_as_those_that_were_measured():
  clips = jnp.full((4, 16, 32, 32, 3), 0.5)
  errors = np.asarray(jax.jit(degrade.residual)(
      jax.random.key(0), clips, jnp.full(4, 0.03))) - 0.5
  assert errors.std() == pytest.approx(0.03, rel=0.05)
  for axis in (2, 3):
    assert _correlation(errors, 1, axis) == pytest.approx(0.55, abs=0.1)
    assert _correlation(errors, 3, axis) == pytest.approx(0.22, abs=0.1)
  assert _correlation(errors, 1, 1) == pytest.approx(0.65, abs=0.1)
  colours = np.corrcoef(errors.reshape(-1, 3).T)
  assert colours[0, 1] == pytest.approx(0.5, abs=0.1)


def test_no_noise_leaves_clips_alone():
  clips = jax.random.uniform(jax.random.key(0), (2, 3, 8, 8, 3))
  same = jax.jit(degrade.residual)(
      jax.random.key(1), clips, jnp.array([0.0, 0.1]))
  np.testing.assert_allclose(same[0], clips[0], atol=1e-6)
  assert np.abs(same[1] - clips[1]).mean() > 0.03


def test_second_order_is_worse_than_bicubic_and_repeats_itself():
  frame = next(moving.clips(1, 1, 64, seed=0))[0]
  once, again = (degrade.second_order(np.random.default_rng(5), frame, 4)
                 for _ in range(2))
  assert once.shape == (16, 16, 3) and once.dtype == np.uint8
  np.testing.assert_array_equal(once, again)
  clean = degrade.bicubic(frame.astype(np.float32) / 255, 4)
  assert np.abs(once / 255 - clean).mean() > 0.01


def test_sizes_that_do_not_divide_are_refused():
  with pytest.raises(UserError, match='Frames of 10x12 cannot be shrunk by 4'):
    degrade.bicubic(np.zeros((10, 12, 3)), 4)


def test_moving_clips_move_and_depend_on_seed_and_index_only():
  few, more = (list(moving.clips(n, 3, 32, seed=1)) for n in (2, 4))
  np.testing.assert_array_equal(few[1], more[1])
  assert any(np.any(clip[0] != clip[2]) for clip in more)
