"""The stage as the main job calls it: tiles, references, geometry, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vidleak_jax import photos, superres
from vidleak_jax.evaluation import metrics
from vidleak_jax.superres import (
  adapt,
  degrade,
  network,
  reference,
  upscale,
)
from vidleak_jax.types import UserError

_ADAPT_STEPS = 60  # everywhere: one program


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


def test_the_perceptual_network_is_sharper(small, large):
  def detail(clips):
    return np.abs(clips - superres.bicubic(degrade.bicubic(clips, 4), 4)).mean()
  plain, sharp = (detail(superres.enhance(small, weights=weights))
                  for weights in (None, 'perceptual'))
  assert 1.05 * plain < sharp < 1.3 * detail(large)


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
  held = superres.enhance(small, large[:, :1], adapt_steps=0)
  assert _psnr(held[:, 0], large[:, 0]) > none + 6  # the very frame
  assert _psnr(held, large) > none + 1


def test_adapting_to_a_reference_adds_to_that():
  """On a photograph that the shipped network was not trained on."""
  photo = photos.load('camera.png')
  frames = np.stack([np.asarray(photo.resize((128, 128), box=box)) for box in (
      (100, 0, 400, 300), (120, 60, 420, 360))]).astype(np.float32) / 255
  held, truth = frames[None, :1], frames[None, 1:]
  small = np.asarray(degrade.bicubic(truth, 4))
  plain, adapted = (
      _psnr(superres.enhance(small, held, adapt_steps=n), truth)
      for n in (0, _ADAPT_STEPS))
  assert adapted > plain + 0.2


def test_adapted_params_repeat_themselves(large):
  net, params = network.load(superres.SHIPPED)
  once, again = (adapt.adapt(net, params, large[0, :1], num_steps=_ADAPT_STEPS)
                 for _ in range(2))
  jax.tree.map(np.testing.assert_array_equal, once, again)
  assert adapt.adapt(net, params, large[0, :1], num_steps=0) is params


def test_crops_drift_over_the_references():
  held = np.random.default_rng(0).uniform(size=(1, 40, 48, 1))
  crops = jax.jit(adapt.draw, static_argnums=(2, 3))(
      jax.random.key(0), held, 3, 4)
  assert crops.shape[1:] == (3, 28, 28, 1)  # never all of a reference
  moving = 0
  for windows in np.asarray(crops):
    assert np.isin(windows, held.astype(np.float32)).all()
    moving += (windows[0] != windows[1]).any()
  assert 0 < moving


def test_a_foreign_reference_costs_less_than_half_a_decibel(small, large):
  foreign = np.random.default_rng(0).uniform(size=large[:, :1].shape)
  none = _psnr(superres.enhance(small), large)
  held = superres.enhance(small, foreign, adapt_steps=0)
  assert _psnr(held, large) > none - 0.5


@pytest.mark.parametrize('shape, told', [
    ((1, 1, 64, 128, 3), 'References are 64x128, the enlarged clip 128x128'),
    ((2, 1, 128, 128, 3), r'References must be \[1, R'),
    ((1, 0, 128, 128, 3), 'got .0, 128, 128, 3'),
    ((1, 1, 128, 128, 1), r'References must be \[R, H, W, 3\]'),
    ((1, 1, 12, 128, 3), 'of 12x128 are smaller')])
def test_references_of_another_size_are_refused(small, shape, told):
  with pytest.raises(UserError, match=told):
    superres.enhance(small, np.zeros(shape))


def test_another_scale_is_refused(small):
  with pytest.raises(UserError, match=r'enlarges by 4.*2 is asked for'):
    superres.enhance(small, scale=2)


@pytest.mark.parametrize('wrong, told', [
    ({'noise': -0.1}, 'noise=-0.1 must be 0 or more'),
    ({'noise': float('nan')}, 'noise=nan must be 0 or more'),
    ({'batch_size': 0}, 'batch_size=0 at least 1'),
    ({'tile': 0}, 'A tile of 0 pixels')])
def test_impossible_numbers_are_refused(small, wrong, told):
  with pytest.raises(UserError, match=told):
    superres.enhance(small, **wrong)


@pytest.mark.parametrize('value', [np.nan, -0.1, 255.0])
def test_clips_out_of_range_are_refused(small, value):
  with pytest.raises(UserError, match=r'Clips must lie in \[0, 1\], got'):
    superres.enhance(np.full_like(small, value))


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


def test_out_of_memory_at_references_says_so(large, monkeypatch):
  def full(*_):
    raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: out of memory')
  monkeypatch.setattr(reference, '_keys', full)
  with pytest.raises(UserError, match=r'1 references of 128x128.*fewer'):
    reference.transfer(large[0], large[0, :1], large[0, :1])


def test_flicker_counts_trembling_only(large):
  steady = np.clip(large + 0.1, 0, 2)
  assert superres.flicker(steady, large) == pytest.approx(0, abs=1e-6)
  tremble = large + 0.1 * np.array([1, -1, 1])[None, :, None, None, None]
  assert superres.flicker(tremble, large) == pytest.approx(0.4, rel=1e-3)
  assert superres.flicker(large[:, :2], large[:, :2]) is None
