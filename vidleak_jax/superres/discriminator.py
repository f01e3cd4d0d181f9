"""The two discriminators that generators are trained against.

Both take frames [B, H, W, C], here with their fine detail as further channels,
and give logits: high means real. They keep no state beside their params: batch
statistics are those of the training batch, and spectral norms are estimated
anew from a fixed start.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from vidleak_jax.superres import degrade
from vidleak_jax.superres.rrdb import leaky
from vidleak_jax.types import Array

_POWER_STEPS = 30  # within 1 % of the true norm on random kernels
_DETAIL_GAIN = 8   # makes what a frame shrunk has lost as strong as the frame


def with_detail(frames: Array, scale: int) -> Array:
  """Frames [B, H, W, C] and what shrinking takes from them: [B, H, W, 2 C].

  Real and enlarged frames differ in that alone: shown frames only, a small
  discriminator told nothing apart for a thousand steps.
  """
  height, width = frames.shape[1:3]
  small = degrade.resize(frames, height // scale, width // scale)
  detail = frames - degrade.resize(small, height, width)
  return jnp.concatenate([frames - 0.5, _DETAIL_GAIN * detail], -1)


class VGGDiscriminator(nn.Module):
  """ESRGAN's: one logit a frame, [B, 1]; H and W at least 32.

  Training frames must all have the size that `init` saw.
  """
  width: int = 64

  @nn.compact
  def __call__(self, x: Array) -> Array:
    for i, times in enumerate((1, 2, 4, 8, 8)):
      width = self.width * times
      x = nn.Conv(width, (3, 3), use_bias=i == 0, name=f'conv{i}_0')(x)
      x = leaky(x if i == 0 else BatchNorm(name=f'norm{i}_0')(x))
      x = nn.Conv(width, (4, 4), 2, padding=1, use_bias=False,
                  name=f'conv{i}_1')(x)
      x = leaky(BatchNorm(name=f'norm{i}_1')(x))
    x = leaky(nn.Dense(100, name='linear1')(x.reshape(x.shape[0], -1)))
    return nn.Dense(1, name='linear2')(x)


class UNetDiscriminator(nn.Module):
  """Real-ESRGAN's: a logit a pixel, [B, H, W, 1]; H, W multiples of 8."""
  width: int = 64

  @nn.compact
  def __call__(self, x: Array) -> Array:
    levels = [leaky(nn.Conv(self.width, (3, 3), name='conv0')(x))]
    for i, times in enumerate((2, 4, 8), 1):
      down = SpectralConv(self.width * times, 4, 2, name=f'conv{i}')
      levels.append(leaky(down(levels[-1])))
    x = levels.pop()
    for i, times in enumerate((4, 2, 1), 4):
      x = leaky(SpectralConv(self.width * times, name=f'conv{i}')(_double(x)))
      x = x + levels.pop()
    for i in (7, 8):
      x = leaky(SpectralConv(self.width, name=f'conv{i}')(x))
    return nn.Conv(1, (3, 3), name='conv9')(x)


class BatchNorm(nn.Module):
  """Normalises by the batch's own statistics."""

  @nn.compact
  def __call__(self, x: Array) -> Array:
    scale = self.param('scale', nn.initializers.ones, x.shape[-1:])
    bias = self.param('bias', nn.initializers.zeros, x.shape[-1:])
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    return (x - mean) * lax.rsqrt(var + 1e-5) * scale + bias


class SpectralConv(nn.Module):
  """A convolution whose kernel, as a matrix, has spectral norm 1."""
  features: int
  size: int = 3
  stride: int = 1

  @nn.compact
  def __call__(self, x: Array) -> Array:
    shape = self.size, self.size, x.shape[-1], self.features
    kernel = self.param('kernel', nn.initializers.lecun_normal(), shape)
    return lax.conv_general_dilated(
        x, kernel / spectral_norm(kernel), (self.stride,) * 2, [(1, 1)] * 2,
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


def spectral_norm(kernel: Array) -> Array:
  """The largest singular value of a kernel [..., outputs], estimated.

  Power iteration (1802.05957); its vectors count as constants in the gradient.
  """
  matrix = kernel.reshape(-1, kernel.shape[-1])
  unit = lambda v: v / jnp.linalg.norm(v)  # noqa: E731
  fixed = lax.stop_gradient(matrix)
  start = jax.random.normal(jax.random.key(0), matrix.shape[-1:])
  right = lax.fori_loop(
      0, _POWER_STEPS, lambda _, v: unit(fixed.T @ (fixed @ v)), unit(start))
  return unit(fixed @ right) @ matrix @ right


def _double(x):
  b, h, w, c = x.shape
  return jax.image.resize(x, (b, 2 * h, 2 * w, c), 'bilinear')
