"""Clips that are nearly right become exact, and nothing becomes worse."""

import jax
import numpy as np
import pytest

from tests.helpers import run_attack
from vidleak_jax import victims
from vidleak_jax.attacks.matching import whole_levels
from vidleak_jax.attacks.matching.feature_matching import FeatureMatching
from vidleak_jax.clients import observe

SHAPE = 1, 2, 12, 12, 3


def _equations(pixels, target):
  """Fewer than the pixels: random projections, relative."""
  matrix, seen = target
  return [(matrix @ pixels.reshape(-1) - seen) / np.sqrt(len(matrix))]


@pytest.fixture(scope='module')
def truth():
  levels = np.random.default_rng(0).integers(1, 255, SHAPE)
  return (levels / 255).astype(np.float32)


@pytest.fixture(scope='module')
def matrix(truth):
  rows = np.random.default_rng(1).normal(size=(truth.size * 9 // 10,
                                               truth.size))
  return (rows / np.sqrt(truth.size)).astype(np.float32)


def _settle(target, clips, **options):
  return whole_levels.settle(_equations, target, clips, **{
      'rounds': 8, 'inner_steps': 200, 'key': 'test', **options})


def test_what_is_near_levels_settles_and_makes_the_rest_exact(truth, matrix):
  error = np.random.default_rng(2).normal(size=SHAPE)
  error *= np.where(np.arange(12) < 8, 0.05, 0.6)[:, None] / 255
  start = np.clip(truth + error, 0, 1).astype(np.float32)
  assert np.rint(start * 255).tolist() != np.rint(truth * 255).tolist()
  shares = []
  found = _settle((matrix, matrix @ truth.reshape(-1)), start,
                  go_on=lambda done, share: shares.append(share) or True)
  np.testing.assert_allclose(found.clips, truth, atol=1e-6)
  assert found.share == 1 and 0.3 < shares[0] < 0.7


def test_a_clip_that_was_filtered_since_is_held_at_no_level(truth, matrix):
  found = _settle((matrix, matrix @ truth.reshape(-1)), truth, hold=False)
  assert found.share == 0


def test_ends_of_the_range_do_not_count_as_levels(truth):
  black = np.zeros_like(truth)
  assert _settle((np.zeros((1, truth.size), np.float32), np.zeros(1)),
                 black).share == 0


def test_the_equations_are_never_met_less_well(truth, matrix):
  """Pixels between levels, which look as if they were on some."""
  start = truth + np.float32(0.1 / 255)
  found = _settle((matrix, matrix @ start.reshape(-1)), start)
  np.testing.assert_allclose(found.clips, start, atol=2e-5)


@pytest.mark.slow
def test_feature_matching_ends_on_the_levels_of_the_clip(batch):
  clips = np.rint(batch.clips[:1, :2, :8, :8] * 255) / np.float32(255)
  victim = victims.build('c3d', clips.shape[1:], 7, preset='small')
  leak = observe(victim, victim.init(jax.random.key(1)), clips,
                 batch.labels[:1])
  found = run_attack(FeatureMatching(num_steps=400), victim, leak)
  np.testing.assert_allclose(found.recovery.clips[0, 0], clips[0], atol=1e-6)
  assert found.findings['on_levels'] == 1


def test_a_pixel_held_on_a_wrong_level_is_told_by_the_equations(truth):
  """All are near levels, three on the next one: no round lets them go."""
  matrix = np.eye(truth.size, dtype=np.float32)
  wrong = np.random.default_rng(4).choice(truth.size, 3, replace=False)
  start = truth.copy()
  start.reshape(-1)[wrong] += np.float32(1 / 255)
  found = _settle((matrix, truth.reshape(-1)), start, rounds=0)
  np.testing.assert_allclose(found.clips, truth, atol=1e-6)


def test_pixels_are_tried_until_time_is_over(truth):
  def measure(levels):
    return np.abs(levels - truth[None]).sum((1, 2, 3, 4, 5))
  levels = truth[None] + np.float32(1 / 255)
  strain = np.full_like(levels, -1)
  tried = whole_levels.try_last(levels, strain, measure)
  assert np.isclose(measure(levels) - measure(tried), 64 / 255, rtol=1e-3)
  stopped = whole_levels.try_last(levels, strain, measure, lambda: False)
  np.testing.assert_array_equal(stopped, levels)
