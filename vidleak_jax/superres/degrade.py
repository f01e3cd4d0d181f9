"""How a frame comes to be small: what a network is trained to undo.

All functions take clips [..., H, W, C] in [0, 1].
"""

import io

import jax
import jax.numpy as jnp
import numpy as np

from vidleak_jax.types import Array, PRNGKey, UserError

# Of what `ig` leaves on clips of 8x32x32 (its default, 1500 steps, train split
# of photo_motion): after a share of the frame was replaced by its blur, errors
# correlate by 0.5-0.7, 0.4-0.5, 0.2-0.3 with those 1, 2, 3 pixels away, by 0.5-
# 0.8, 0.4-0.7, 0.2-0.5 with those 1, 2, 3 frames away, by 0.4-0.6 between
# colours. Broad and white errors mixed come near all of these.
_BLURRED_SHARE = 0.45   # of the frame, replaced by its blur at full strength
_FULL_STRENGTH = 0.03   # the noise from which on that share is reached
_BROAD_SPACE, _BROAD_TIME, _COMMON_COLOUR = 0.6, 0.7, 0.5  # shares of variance
_SPACE_SIGMA = _TIME_SIGMA = 1.5


def resize(clips: Array, height: int, width: int) -> Array:
  """Bicubic in the geometry of the data stage, [..., height, width, C].

  Keys' kernel with a = -0.5, pixel centres at half positions, the kernel
  widened when it shrinks (antialiasing), weights renormalised at the border:
  what Pillow's BICUBIC does. Not clipped.
  """
  return jax.image.resize(
      clips, (*clips.shape[:-3], height, width, clips.shape[-1]), 'bicubic')


def bicubic(clips: Array, scale: int) -> Array:
  """Shrinks by `scale`, clipped to [0, 1].

  Raises:
    UserError: where the size is no multiple of the scale.
  """
  height, width = clips.shape[-3:-1]
  if height % scale or width % scale:
    raise UserError(f'Frames of {height}x{width} cannot be shrunk by {scale}: '
                    'height and width must be multiples of it.')
  return jnp.clip(resize(clips, height // scale, width // scale), 0, 1)


def residual(key: PRNGKey, clips: Array, noise: Array) -> Array:
  """Adds what gradient inversion leaves: fine detail lost, smooth errors.

  Args:
    key: consumed.
    clips: [B, T, H, W, C], small already.
    noise: [B], standard deviation of the errors; 0 leaves a clip as it is.

  Returns:
    [B, T, H, W, C] in [0, 1].
  """
  errors = _errors(key, clips.shape)
  strength = noise[:, None, None, None, None]
  share = _BLURRED_SHARE * jnp.clip(strength / _FULL_STRENGTH, 0, 1)
  soft = blur(blur(clips, 2, 1.0), 3, 1.0)
  return jnp.clip(clips + share * (soft - clips) + strength * errors, 0, 1)


def _errors(key, shape):
  """Unit-variance noise with the correlations above."""
  keys = iter(jax.random.split(key, 8))

  def mixed(shape, *filters):
    if not filters:
      return jax.random.normal(next(keys), shape)
    (share, spread), *rest = filters
    broad = spread(mixed(shape, *rest))
    return (jnp.sqrt(share) * broad / jnp.std(broad)
            + jnp.sqrt(1 - share) * mixed(shape, *rest))

  space = _BROAD_SPACE, lambda x: blur(blur(x, 2, _SPACE_SIGMA), 3,
                                       _SPACE_SIGMA)
  time = _BROAD_TIME, lambda x: blur(x, 1, _TIME_SIGMA)
  common = mixed((*shape[:-1], 1), space, time)
  own = mixed(shape, space, time)
  return (jnp.sqrt(_COMMON_COLOUR) * common
          + jnp.sqrt(1 - _COMMON_COLOUR) * own)


def blur(x: Array, axis: int, sigma: float) -> Array:
  """A Gaussian along one axis, as a matrix with rows of sum 1."""
  at = jnp.arange(x.shape[axis])
  weights = jnp.exp(-(at[:, None] - at) ** 2 / (2 * sigma ** 2))
  weights /= weights.sum(1, keepdims=True)
  return jnp.moveaxis(jnp.moveaxis(x, axis, -1) @ weights.T, -1, axis)


def second_order(rng: np.random.Generator, frame: np.ndarray,
                 scale: int) -> np.ndarray:
  """Real-ESRGAN's degradation (2107.10833): all of it, twice, on the host.

  Blur, resize, noise and JPEG with random strength, then again, then a sinc
  filter before or after the last JPEG.

  Args:
    rng: consumed.
    frame: uint8 [H, W, 3].
    scale: H and W are multiples of it.

  Returns:
    uint8 [H / scale, W / scale, 3].
  """
  height, width = frame.shape[:2]
  x = frame.astype(np.float32) / 255
  for strength, sizes, odds in (
      (1.0, (0.15, 1.5), 1.0), (0.6, (0.3, 1.2), 0.8)):
    if rng.random() < odds:
      x = _filter(x, _gaussian(rng, 3 * strength))
    factor = rng.uniform(*sizes)
    x = _resize_any(rng, x, factor * height / (1 if strength == 1 else scale),
                    factor * width / (1 if strength == 1 else scale))
    x = _noisy(rng, x, strength)
    if strength == 1:
      x = _jpeg(x, rng.integers(30, 96))
  steps = [lambda x: _filter(_resize_any(rng, x, height / scale, width / scale),
                             _sinc(rng)),
           lambda x: _jpeg(x, rng.integers(30, 96))]
  for i in rng.permutation(2):
    x = steps[i](x)
  return np.round(255 * np.clip(x, 0, 1)).astype(np.uint8)


def _filter(x, kernel):
  from scipy.ndimage import convolve
  return np.stack([convolve(x[..., c], kernel, mode='reflect')
                   for c in range(x.shape[-1])], -1)


def _gaussian(rng, largest, size=21):
  """An anisotropic Gaussian, turned at random."""
  sigma, angle = rng.uniform(0.2, largest, 2), rng.uniform(0, np.pi)
  at = np.arange(size) - size // 2
  x = np.cos(angle) * at + np.sin(angle) * at[:, None]
  y = np.cos(angle) * at[:, None] - np.sin(angle) * at
  kernel = np.exp(-(x / sigma[0]) ** 2 / 2 - (y / sigma[1]) ** 2 / 2)
  return kernel / kernel.sum()


def _sinc(rng, size=21):
  """A round low-pass filter, which rings as sharpened pictures do."""
  from scipy.special import j1
  cutoff = rng.uniform(np.pi / 3, np.pi)
  at = np.arange(size) - size // 2
  radius = np.maximum(np.hypot(at, at[:, None]), 1e-6)
  kernel = cutoff * j1(cutoff * radius) / (2 * np.pi * radius)
  return kernel / kernel.sum()


def _resize_any(rng, x, height, width):
  from PIL import Image
  how = rng.choice([Image.Resampling.BOX, Image.Resampling.BILINEAR,
                    Image.Resampling.BICUBIC])
  size = max(1, round(width)), max(1, round(height))
  return np.stack([np.asarray(Image.fromarray(x[..., c]).resize(size, how))
                   for c in range(x.shape[-1])], -1)


def _noisy(rng, x, strength):
  """Gaussian or photon noise, the same for all colours in 4 of 10 cases."""
  x = np.clip(x, 0, 1)
  shape = (*x.shape[:2], 1 if rng.random() < 0.4 else 3)
  if rng.random() < 0.5:
    return x + rng.normal(0, rng.uniform(1, 30 * strength) / 255, shape)
  level = rng.uniform(0.05, 3 * strength) / 255
  base = x.mean(-1, keepdims=True) if shape[-1] == 1 else x
  return x + rng.poisson(base / level) * level - base


def _jpeg(x, quality):
  from PIL import Image
  stream = io.BytesIO()
  pixels = np.round(255 * np.clip(x, 0, 1)).astype(np.uint8)
  Image.fromarray(pixels).save(stream, 'JPEG', quality=int(quality))
  return np.asarray(Image.open(stream), np.float32) / 255
