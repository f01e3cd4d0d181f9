import json

import jax.numpy as jnp
import numpy as np
import pytest

from vidleak_jax.evaluation import metrics
from vidleak_jax.types import UserError


def noise(seed, *shape):
  return np.random.default_rng(seed).random(shape, np.float32)


def smooth(seed, *shape):
  """Something like a photo: SSIM is hardest where frames are nearly flat."""
  from scipy.ndimage import gaussian_filter
  return gaussian_filter(noise(seed, *shape), (0, 4, 4, 0)).clip(0, 1)


def test_unrelated_noise_scores_its_true_value():
  a, b = (np.random.default_rng(s).integers(0, 256, (50, 64, 64, 3), np.uint8)
          for s in (1, 2))
  # E(a - b)^2 = 1/6 for two uniform draws: 7.78 dB.
  assert np.mean(metrics.psnr(a / 255, b / 255)) == pytest.approx(7.75, abs=.05)


def test_psnr_agrees_with_a_hand_computed_error():
  a = np.zeros((2, 2, 2, 1), np.float32)
  b = np.array([[.1, .1, .1, .1], [.3, .1, .1, .1]]).reshape(2, 2, 2, 1)
  np.testing.assert_allclose(
      metrics.psnr(a, b), [20, -10 * np.log10((.09 + 3 * .01) / 4)])


@pytest.mark.parametrize('decibels', [60, 99, 125, 150])
def test_errors_are_exact_far_below_float32(decibels):
  truth = noise(0, 2, 8, 8, 3).astype(np.float64) * .5 + .25
  near = truth + 10 ** (-decibels / 20)
  np.testing.assert_allclose(
      -10 * np.log10(metrics.squared_error(near, truth)), decibels, atol=1e-6)
  np.testing.assert_allclose(
      metrics.psnr(near, truth), min(decibels, 100), atol=1e-6)


def test_equal_clips_score_the_ceiling_and_one():
  clips = noise(0, 2, 3, 16, 16, 3)
  result = metrics.score(clips, clips, clips)
  assert result['psnr'] == metrics.CEILING == 100
  assert result['psnr_of_mean_error'] == metrics.CEILING
  assert result['num_exact'] == 2
  assert result['ssim'] == pytest.approx(1)


def test_exact_clips_are_counted_and_do_not_carry_the_mean():
  """Three clips: equal, off by less and by more than half a level of 256."""
  truth = np.round(255 * noise(0, 3, 2, 16, 16, 3) * .8) / 255
  near = truth.copy()
  near[1] += .49 / 255
  near[2, 1, 0, 0, 0] += .51 / 255
  result = metrics.score(near, truth, truth[::-1])
  assert result['num_exact'] == 2
  assert result['exact_per_clip'] == [True, True, False]
  assert result['psnr_per_clip'][0] == 100
  near[2] += .1
  result = metrics.score(near, truth, truth[::-1])
  assert result['psnr'] == pytest.approx((100 + 54.3 + 20) / 3, abs=.1)
  mean_error = (.1 ** 2 + (.49 / 255) ** 2) / 3
  assert result['psnr_of_mean_error'] == pytest.approx(
      -10 * np.log10(mean_error), abs=.01)


@pytest.mark.parametrize('make', [noise, smooth])
@pytest.mark.parametrize('shape', [(2, 32, 32, 3), (2, 24, 40, 1)])
def test_ssim_agrees_with_scikit_image(make, shape):
  from skimage.metrics import structural_similarity
  a = make(0, *shape)
  b = (a + .1 * noise(1, *shape)).clip(0, 1)
  expected = [structural_similarity(
      x, y, channel_axis=-1, gaussian_weights=True, sigma=1.5,
      use_sample_covariance=False, data_range=1) for x, y in zip(a, b)]
  np.testing.assert_allclose(metrics.ssim(a, b), expected, atol=1e-5)


def test_score_has_the_promised_keys_and_json_holds_them():
  truth, other = noise(0, 2, 3, 16, 16, 3), noise(1, 2, 3, 16, 16, 3)
  near = (truth + .01).clip(0, 1)
  result = json.loads(json.dumps(
      metrics.score(jnp.asarray(near), jnp.asarray(truth), other[:1]),
      allow_nan=False))
  assert np.shape(result['psnr_per_frame']) == (2, 3)
  assert np.shape(result['ssim_per_frame']) == (2, 3)
  assert np.mean(result['psnr_per_frame']) == pytest.approx(result['psnr'])
  assert np.mean(result['psnr_per_clip']) == pytest.approx(result['psnr'])
  assert result['psnr'] > 39 > result['psnr_mean_frame']
  # Against uniform noise a constant mean has variance 1/12, other noise 1/6.
  assert result['psnr_mean_frame'] == pytest.approx(10.8, abs=.2)
  assert result['psnr_unrelated'] == pytest.approx(7.8, abs=.2)
  assert {'ssim_unrelated', 'ssim_mean_frame'} < result.keys()


def test_a_reference_frame_is_a_floor_of_its_own():
  truth = noise(0, 2, 3, 16, 16, 3)
  result = metrics.score(truth, truth, truth, reference=truth[:, :1])
  assert metrics.CEILING / 3 < result['psnr_reference'] < metrics.CEILING


def test_ssim_is_null_where_the_window_does_not_fit():
  clips = noise(0, 1, 2, metrics.WINDOW - 1, 16, 3)
  result = metrics.score(clips, clips, clips)
  assert result['ssim'] is None
  assert result['ssim_per_frame'] == [[None, None]]
  assert result['psnr'] == metrics.CEILING


def test_enhancement_is_scored_beside_bicubic():
  original = noise(0, 1, 2, 16, 16, 3) * .5
  result = metrics.score_enhanced(original + .01, original + .1, original)
  assert result['psnr_enhanced'] == pytest.approx(40, abs=1e-4)
  assert result['psnr_bicubic'] == pytest.approx(20, abs=1e-4)
  assert result['ssim_enhanced'] > result['ssim_bicubic']


def test_assign_finds_the_order_within_each_message():
  truth = noise(0, 2, 4, 3, 8, 8, 3)
  orders = np.array([[2, 0, 3, 1], [1, 0, 2, 3]])
  shuffled = np.stack([clips[o] for clips, o in zip(truth, orders)])
  found = metrics.assign((shuffled * .9 + .05), truth)
  for clips, order, expected in zip(shuffled, found, truth):
    np.testing.assert_array_equal(clips[order], expected)


def test_assign_uses_each_clip_once():
  truth = noise(0, 1, 2, 1, 8, 8, 3)
  both_like_the_first = np.stack([truth[:, 0], truth[:, 0] * .9], axis=1)
  assert metrics.assign(both_like_the_first, truth).tolist() == [[0, 1]]


def test_label_accuracy():
  assert metrics.label_accuracy([[1, 2], [3, 4]], [[1, 2], [4, 3]]) == .5
  with pytest.raises(UserError, match='equal shapes'):
    metrics.label_accuracy([1], [1, 2])


@pytest.mark.parametrize('bad, message', [
    (np.full((1, 2, 8, 8, 3), 255, np.uint8), 'Divide'),
    (np.full((1, 2, 8, 8, 3), 1.1), r'\[0, 1\]'),
    (np.full((1, 2, 8, 8, 3), -.1), r'\[0, 1\]'),
    (np.full((1, 2, 8, 8, 3), np.nan), 'nan'),
    (np.zeros((1, 3, 8, 8, 3)), 'equal shapes'),
    (np.zeros((2, 2, 8, 8, 3)), 'equal shapes'),
    (np.zeros((2, 8, 8, 3)), 'N, T, H, W, C'),
])
def test_score_refuses_what_is_no_clip(bad, message):
  good = np.zeros((1, 2, 8, 8, 3))
  with pytest.raises(UserError, match=message):
    metrics.score(bad, good, good)
  with pytest.raises(UserError):
    metrics.score(good, good, bad.repeat(3, axis=-1))
