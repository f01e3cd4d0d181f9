"""The stage as the main job calls it: tiles, references, geometry, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vidleak_jax import metrics, superres
from vidleak_jax.superres import degrade, network, upscale
from vidleak_jax.types import UserError


def _psnr(a, b):
  return metrics.psnr(a, b).mean()


def test_bicubic_is_pillows(large):
  frame = large[0, 0, :, :, 0]
  for size in (32, 200):
    ours = degrade.resize(frame[..., None], size, size)[..., 0]
    theirs = Image.fromarray(frame).resize(
        (size, size), Image.Resampling.BICUBIC)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_the_shipped_network_beats_bicubic(small, large):
  enhanced = superres.enhance(small)
  assert enhanced.shape == large.shape and enhanced.dtype == np.float32
  floor = _psnr(superres.bicubic(small, 4), large)
  assert _psnr(enhanced, large) > floor + 0.5


def test_it_mends_residuals_better_when_told_of_them(small, large):
  dirty = np.asarray(jax.jit(degrade.residual)(
      jax.random.key(0), jnp.asarray(small), jnp.array([0.05])))
  told = _psnr(superres.enhance(dirty, noise=0.05), large)
  assert told > _psnr(superres.enhance(dirty), large) + 0.3
  assert told > _psnr(superres.bicubic(dirty, 4), large) + 0.3


def test_true_frames_stay_what_they_were(small):
  again = degrade.bicubic(superres.enhance(small), 4)
  net, params = network.load(superres.SHIPPED)
  plain = degrade.bicubic(upscale.upscale(net, params, small), 4)
  assert _psnr(again, small) > _psnr(plain, small) + 3


def test_a_reference_adds_what_it_shows(small, large):
  none = _psnr(superres.enhance(small), large)
  held = superres.enhance(small, large[:, :1])
  assert _psnr(held[:, 0], large[:, 0]) > none + 6  # the very frame
  assert _psnr(held, large) > none + 1


def test_a_foreign_reference_costs_less_than_half_a_decibel(small, large):
  foreign = np.random.default_rng(0).uniform(size=large[:, :1].shape)
  none = _psnr(superres.enhance(small), large)
  assert _psnr(superres.enhance(small, foreign), large) > none - 0.5


@pytest.mark.parametrize('shape', [(1, 1, 64, 128, 3), (2, 1, 128, 128, 3),
                                   (1, 0, 128, 128, 3)])
def test_references_of_another_size_are_refused(small, shape):
  with pytest.raises(UserError, match=r'References must be \[1, R, 128'):
    superres.enhance(small, np.zeros(shape))


def test_another_scale_is_refused(small):
  with pytest.raises(UserError, match=r'enlarges by 4.*asks for 2'):
    superres.enhance(small, scale=2)


def test_tiles_leave_no_seam():
  # Overlaps of 16 cover the 12 pixels that ClipNet's 12 convolutions see.
  clip = np.random.default_rng(0).uniform(size=(1, 1, 75, 50, 3))
  net, params = network.load(superres.SHIPPED)
  whole = upscale.upscale(net, params, clip, tile=80)
  tiled = upscale.upscale(net, params, clip, tile=48, overlap=16,
                          devices=jax.local_devices()[:2], batch_size=2)
  np.testing.assert_allclose(tiled, whole, atol=1e-4)


def test_a_tile_of_overlaps_only_is_refused(small):
  net, params = network.load(superres.SHIPPED)
  with pytest.raises(UserError, match='must be larger than its overlaps'):
    upscale.upscale(net, params, small, tile=16, overlap=8)


def test_out_of_memory_says_what_to_do(small, monkeypatch):
  def full(*_):
    raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: out of memory')
  monkeypatch.setattr(upscale, '_compiled', lambda *_: full)
  net, params = network.load(superres.SHIPPED)
  with pytest.raises(UserError, match=r'tiles of 32x32.*smaller tile'):
    upscale.upscale(net, params, small)


def test_flicker_counts_trembling_only(large):
  steady = np.clip(large + 0.1, 0, 2)
  assert superres.flicker(steady, large) == pytest.approx(0, abs=1e-6)
  tremble = large + 0.1 * np.array([1, -1, 1])[None, :, None, None, None]
  assert superres.flicker(tremble, large) == pytest.approx(0.4, rel=1e-3)
  assert superres.flicker(large[:, :2], large[:, :2]) is None
