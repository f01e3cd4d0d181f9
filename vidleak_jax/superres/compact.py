"""SRVGGNetCompact, Real-ESRGAN's small fast generator (2107.10833)."""

import flax.linen as nn
import jax.numpy as jnp

from vidleak_jax.superres.rrdb import conv, nearest, pixel_shuffle
from vidleak_jax.types import Array


class PReLU(nn.Module):
  """A leaky ReLU with a learned slope per channel."""

  @nn.compact
  def __call__(self, x: Array) -> Array:
    slope = self.param('scale', nn.initializers.constant(0.25), x.shape[-1:])
    return jnp.where(x > 0, x, slope * x)


class SRVGGNetCompact(nn.Module):
  """[B, H, W, C] in [0, 1] -> [B, scale H, scale W, C], all work at low size.

  A plain stack of convolutions that predicts what is missing from the input
  enlarged by repeating pixels.
  """
  scale: int = 4
  width: int = 64
  num_convs: int = 16
  channels: int = 3

  @nn.compact
  def __call__(self, x: Array) -> Array:
    base = nearest(x, self.scale)
    for i in range(self.num_convs + 1):
      x = PReLU(name=f'act_{i}')(conv(self.width, name=f'conv_{i}')(x))
    x = conv(self.channels * self.scale ** 2,
             name=f'conv_{self.num_convs + 1}')(x)
    return pixel_shuffle(x, self.scale) + base
