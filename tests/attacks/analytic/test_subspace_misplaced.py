"""Tokens in another frame's place, told by how the picture moves."""

import jax
import numpy as np
import pytest
from scipy import ndimage

from tests.helpers import psnr
from vidleak_jax.attacks.analytic.subspace import (
  constraints,
  misplaced,
  reading,
  search,
)

SHAPE = (5, 32, 32, 3)
SIDE = 8


@pytest.fixture(scope='module')
def scene():
  """(clip of a pan, its tokens C, (program, layout, evidence))."""
  noise = np.random.default_rng(0).uniform(size=(32, 48, 3))
  picture = ndimage.gaussian_filter(noise, (1.5, 1.5, 0), mode='wrap') - 0.5
  clip = np.stack([0.5 + 2 * picture[:, t * 2:t * 2 + 32] for t in range(5)])
  order = np.arange(clip.size).reshape(
      5, 4, SIDE, 4, SIDE, 3).transpose(0, 1, 3, 2, 4, 5).reshape(80, -1)
  patches = clip.ravel()[order] - 0.5
  basis = np.linalg.svd(patches, full_matrices=False)[2]
  layout = constraints.Layout(
      reading.Tiling(('embed',), order, 0 * order, 1 + 0 * order), {}, {}, {},
      '', True)
  none = np.zeros((len(basis), 0))
  known = constraints.Evidence(
      {}, np.full(order.shape[1], 0.5), basis, {}, {}, none,
      np.zeros((80, 0)), 1.0, 1.0, {}, 0.0)
  program = search.build(lambda params, clip: clip, layout, SHAPE)
  return clip, patches @ basis.T, (program, layout, known)


@pytest.mark.slow
def test_frames_that_swap_one_place_are_told_apart(scene):
  clip, truth, (program, layout, known) = scene
  swapped = truth.copy()
  swapped[[5 + 16, 5 + 48]] = truth[[5 + 48, 5 + 16]]
  with jax.enable_x64(True):
    filled = misplaced.build(program, layout)(swapped, known)
    before, after = (psnr(program.clip(c, known), clip)
                     for c in (swapped, filled))
  changed = np.abs(filled - swapped).max(1) > 1e-6
  assert {21, 53} <= set(np.flatnonzero(changed)) and changed.mean() < 0.1
  assert after > before + 3


def test_a_video_that_moves_as_it_should_stays(scene):
  _, truth, (program, layout, known) = scene
  with jax.enable_x64(True):
    assert misplaced.build(program, layout)(truth, known) is None


def test_the_motion_of_most_is_found():
  places = np.stack(np.meshgrid(*[np.linspace(-1, 1, 12)] * 2), -1)
  flow = (0.5 * places + [1.0, -2.0])[None, None].repeat(3, 1)
  spoilt = flow.copy()
  spoilt[:, 1, :4, :6] = 3.0
  np.testing.assert_allclose(misplaced.steady(spoilt), flow, atol=0.15)
