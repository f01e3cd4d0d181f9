"""Trembling is taken out, motion and true frames are left alone."""

import jax
import numpy as np
import pytest

from vidleak_jax import photos, superres
from vidleak_jax.evaluation import metrics
from vidleak_jax.superres import degrade
from vidleak_jax.superres.steady import steady


@pytest.fixture(scope='module')
def clips():
  """A camera that moves two small pixels a frame, and one that stands still."""
  photo = photos.load('camera.png')
  views = [[photo.resize((32, 32), box=(x, 90, x + 320, 410)) for x in path]
           for path in (range(0, 160, 20), [60] * 8)]
  return np.asarray([[np.asarray(frame) for frame in view] for view in views],
                    np.float32) / 255


@pytest.fixture(scope='module')
def dirty(clips):
  return np.asarray(jax.jit(degrade.residual)(
      jax.random.key(0), clips, np.full(2, 0.03)))


def test_what_moves_and_what_stands_come_nearer_and_tremble_less(clips, dirty):
  steadied = steady(dirty)
  assert steadied.shape == clips.shape
  gains = metrics.psnr(steadied, clips) - metrics.psnr(dirty, clips)
  assert (gains.mean(1) > 0.4).all()
  for i in range(2):
    one = slice(i, i + 1)
    assert superres.flicker(steadied[one], clips[one]) < (
        0.95 * superres.flicker(dirty[one], clips[one]))


def test_true_frames_are_left_alone(clips):
  assert (metrics.psnr(steady(clips), clips) > 45).all()


@pytest.mark.parametrize('count', [1, 2])
def test_few_frames(clips, count):
  few = np.asarray(clips[:, :count])
  assert steady(few).shape == few.shape
  np.testing.assert_array_equal(steady(few[:, :1]), few[:, :1])


def test_enhancement_of_recoveries_is_steadied(clips, dirty):
  large = superres.enhance(clips)
  trembling = superres.flicker(superres.bicubic(dirty, 4), large)
  assert superres.flicker(superres.enhance(dirty, noise=0.015), large) < (
      trembling)


def test_white_stays_in_range():
  white = np.ones((1, 4, 16, 16, 3), np.float32)
  np.testing.assert_array_equal(steady(white), white)
