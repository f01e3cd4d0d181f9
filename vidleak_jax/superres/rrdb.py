"""ESRGAN's generator: residual-in-residual dense blocks (1809.00219).

Frames are [B, H, W, C] in [0, 1]; the output is not clipped. Convolutions are
XLA's own: here no weight is vmapped and nothing is differentiated twice, and
in 2-D they are 3 to 10 times as fast on CPU as the victims' matrix products.
Two of them are rearranged, which spares a tenth of the time on CPU: no channels
are concatenated, and no repeated pixels are convolved.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp
from jax import lax

from vidleak_jax.types import Array, UserError

leaky = functools.partial(nn.leaky_relu, negative_slope=0.2)
conv = functools.partial(nn.Conv, kernel_size=(3, 3), padding=1)


def pixel_shuffle(x: Array, factor: int) -> Array:
  """[B, H, W, C r r] -> [B, H r, W r, C], channels in torch's order."""
  b, h, w, c = x.shape
  x = x.reshape(b, h, w, c // factor ** 2, factor, factor)
  return x.transpose(0, 1, 4, 2, 5, 3).reshape(b, h * factor, w * factor, -1)


def pixel_unshuffle(x: Array, factor: int) -> Array:
  """The inverse of `pixel_shuffle`; H and W must be multiples of `factor`."""
  b, h, w, c = x.shape
  x = x.reshape(b, h // factor, factor, w // factor, factor, c)
  return x.transpose(0, 1, 3, 5, 2, 4).reshape(
      b, h // factor, w // factor, c * factor ** 2)


def nearest(x: Array, factor: int) -> Array:
  """Enlarges by repeating pixels."""
  return x.repeat(factor, axis=1).repeat(factor, axis=2)


class SummedConv(nn.Module):
  """`conv` of arrays concatenated on the channels, which it never joins."""
  features: int

  @nn.compact
  def __call__(self, *parts: Array) -> Array:
    kernel, total = _weights(self, sum(x.shape[-1] for x in parts))
    seen = 0
    for x in parts:
      total += _convolve(x, kernel[:, :, seen:seen + x.shape[-1]])
      seen += x.shape[-1]
    return total


class DoublingConv(nn.Module):
  """`conv` of `nearest(x, 2)`, from four convolutions of 2x2 on x itself.

  Of the kernel's three rows two fall on the same small row; which, depends on
  the large row being even or odd. Columns likewise.
  """
  features: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    kernel, bias = _weights(self, x.shape[-1])
    rows = [jnp.stack([kernel[0], kernel[1] + kernel[2]]),
            jnp.stack([kernel[0] + kernel[1], kernel[2]])]
    both = [[jnp.stack([k[:, 0], k[:, 1] + k[:, 2]], 1),
             jnp.stack([k[:, 0] + k[:, 1], k[:, 2]], 1)] for k in rows]
    parts = jnp.stack([jnp.stack([
        _convolve(x, both[i][j], ((1 - i, i), (1 - j, j)))
        for j in (0, 1)], 3) for i in (0, 1)], 2)  # [B, H, 2, W, 2, F]
    b, h, w, _ = x.shape
    return parts.reshape(b, 2 * h, 2 * w, self.features) + bias


def _weights(module, inputs):
  """The params of an `nn.Conv` of 3x3 under a module's own name."""
  shape = 3, 3, inputs, module.features
  return (module.param('kernel', nn.initializers.lecun_normal(), shape),
          module.param('bias', nn.initializers.zeros, shape[-1:]))


def _convolve(x, kernel, pads=((1, 1), (1, 1))):
  return lax.conv_general_dilated(
      x, kernel, (1, 1), pads, dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


class DenseBlock(nn.Module):
  """Five convolutions, each fed with all before it."""
  growth: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    known = [x]
    for i in range(1, 5):
      known.append(leaky(SummedConv(self.growth, name=f'conv{i}')(*known)))
    return x + 0.2 * SummedConv(x.shape[-1], name='conv5')(*known)


class RRDB(nn.Module):
  """Three dense blocks and a shortcut round them."""
  growth: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    inner = x
    for i in range(1, 4):
      inner = DenseBlock(self.growth, name=f'rdb{i}')(inner)
    return x + 0.2 * inner


class RRDBNet(nn.Module):
  """[B, H, W, C] -> [B, scale H, scale W, C].

  The body always enlarges by 4; for scale 1 and 2 pixels are first folded onto
  the channels (Real-ESRGAN), H and W being padded to what that needs.
  """
  scale: int = 4
  width: int = 64
  growth: int = 32
  num_blocks: int = 23
  channels: int = 3

  @nn.compact
  def __call__(self, x: Array) -> Array:
    if self.scale not in (1, 2, 4):
      raise UserError(f'RRDBNet enlarges by 1, 2 or 4, not {self.scale}.')
    height, width = (self.scale * n for n in x.shape[1:3])
    if fold := {1: 4, 2: 2}.get(self.scale):
      pads = [(0, -n % fold) for n in x.shape[1:3]]
      x = jnp.pad(x, ((0, 0), *pads, (0, 0)), mode='reflect')
      x = pixel_unshuffle(x, fold)
    first = conv(self.width, name='conv_first')(x)
    x = first
    for i in range(self.num_blocks):
      x = RRDB(self.growth, name=f'body_{i}')(x)
    x = first + conv(self.width, name='conv_body')(x)
    for name in ('conv_up1', 'conv_up2'):
      x = leaky(DoublingConv(self.width, name=name)(x))
    x = leaky(conv(self.width, name='conv_hr')(x))
    x = conv(self.channels, name='conv_last')(x)
    return x[:, :height, :width]
