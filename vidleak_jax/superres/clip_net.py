"""ClipNet: a small network that sees a frame's neighbours too.

Where the camera or a thing moves by parts of a pixel, neighbouring frames hold
samples that the frame itself lacks, and the errors an attack leaves differ from
frame to frame. Convolutions learn to align motions of a few pixels by
themselves. It is told how noisy its input is (as FFDNet, 1710.04026), so the
same params serve true frames and recoveries.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vidleak_jax.superres.rrdb import conv, pixel_shuffle
from vidleak_jax.types import Array


class ClipNet(nn.Module):
  """What bicubic enlargement of the middle frame misses.

  Takes windows [B, frames, H, W, C] in [0, 1] and the standard deviation [B] of
  their errors; gives [B, scale H, scale W, C], not clipped.
  """
  scale: int = 4
  frames: int = 5
  width: int = 32
  num_blocks: int = 5
  channels: int = 3

  @nn.compact
  def __call__(self, windows: Array, noise: Array) -> Array:
    b, f, h, w, c = windows.shape
    middle = windows[:, f // 2]
    around = jnp.moveaxis(windows - middle[:, None], 1, 3)
    level = jnp.broadcast_to(10 * noise[:, None, None, None], (b, h, w, 1))
    x = jnp.concatenate(
        [middle - 0.5, around.reshape(b, h, w, f * c), level], -1)
    x = conv(self.width, name='conv_first')(x)
    for i in range(self.num_blocks):
      inner = nn.relu(conv(self.width, name=f'conv_{i}_0')(x))
      x = x + conv(self.width, name=f'conv_{i}_1')(inner)
    detail = conv(self.channels * self.scale ** 2, name='conv_last',
                  kernel_init=nn.initializers.zeros)(x)
    base = jax.image.resize(
        middle, (b, h * self.scale, w * self.scale, c), 'bicubic')
    return base + pixel_shuffle(detail, self.scale)
