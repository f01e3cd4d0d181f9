"""The 256 levels of video, and clips that are known in part."""

import numpy as np
import pytest

from tests.helpers import share
from vidleak_jax import victims
from vidleak_jax.attacks import analytic
from vidleak_jax.attacks.analytic import rounding


def whole(*shape):
  return np.random.default_rng(0).integers(0, 256, shape) / 255


def test_near_levels_are_taken_and_the_distance_is_told():
  truth = whole(2, 4, 8, 8, 3)
  noise = np.random.default_rng(1).normal(0, 0.1 / 255, truth.shape)
  found = analytic.to_levels(truth + noise)
  assert found.on_levels.all()
  np.testing.assert_allclose(found.clips, truth, atol=1e-12)
  np.testing.assert_allclose(255 * found.moved, 0.1, rtol=0.1)


@pytest.mark.parametrize('clips', [
    np.random.default_rng(0).uniform(size=(1, 4, 8, 8, 3)),
    np.full((1, 4, 8, 8, 3), 0.502),         # flat: near a level by chance
    np.where(whole(1, 4, 8, 8, 3) > 0.5, 1.0, 0.0),  # clipped, not whole
])
def test_other_clips_stay_as_they_are(clips):
  found = analytic.to_levels(clips)
  assert not found.on_levels.any()
  np.testing.assert_array_equal(found.clips, clips)


def test_errors_that_hang_together_are_found_out():
  rng = np.random.default_rng(2)
  truth = 255 * whole(20, 50)
  direction = np.linalg.qr(rng.normal(size=(20, 2)))[0]
  direction[:8] *= 0.01  # sure rows to begin with
  scaled = truth + 10 * direction @ rng.normal(size=(2, 50))
  covariance = 100 * direction @ direction.T + 1e-6 * np.eye(20)
  assert np.mean(np.rint(scaled) == truth) < 0.7
  found = rounding.decode(scaled, covariance)
  np.testing.assert_array_equal(found, truth)


def test_what_no_row_is_sure_of_is_not_rounded():
  assert rounding.decode(255 * whole(20, 50), 100 * np.eye(20)) is None


def test_a_transformers_clip_is_exact():
  clips = whole(1, 4, 16, 16, 3).astype(np.float32)
  victim = victims.build('vivit', clips.shape[1:], 7, preset='tiny')
  found = analytic.recover_tokens(victim, share(
      victim, clips[None], np.array([[3]])))
  assert found.report[0]['on_levels']
  np.testing.assert_allclose(found.clips[0], clips, atol=1e-7)
