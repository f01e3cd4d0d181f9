"""A 3-D residual network of pre-activation blocks (1603.05027), of 18 layers.

  python launch/attack.py --config=configs/clip_r3d18.py:full \
      --config.victim.factory=tests/attacks/analytic/preactivation.py:make ...
"""

import flax.linen as nn

FULL = (64, 64, 128, 128, 256, 256, 512, 512)


def make(num_classes):
  """Returns the network at full width."""
  return PreActivation(FULL, num_classes=num_classes)


class Block(nn.Module):
  """`x + conv(relu(norm(conv(relu(norm(x))))))`."""
  width: int
  stride: int
  shortcut: str  # 'activated' or 'raw': what the projection reads

  @nn.compact
  def __call__(self, x):
    strides = (self.stride,) * 3
    a = _activated(x, 'norm0')
    if x.shape[-1] != self.width:
      x = nn.Conv(self.width, (1, 1, 1), strides, use_bias=False,
                  name='shortcut')(a if self.shortcut == 'activated' else x)
    z = nn.Conv(self.width, (3, 3, 3), strides, padding=1, use_bias=False,
                name='conv0')(a)
    return x + nn.Conv(self.width, (3, 3, 3), padding=1, name='conv1')(
        _activated(z, 'norm1'))


class PreActivation(nn.Module):
  """Clips [B, T, H, W, C] in [0, 1] to logits [B, K]."""
  widths: tuple[int, ...]
  shortcut: str = 'activated'
  closed: bool = True  # by a norm and a ReLU before the mean
  num_classes: int = 5

  @nn.compact
  def __call__(self, x):
    x = nn.Conv(self.widths[0], (3, 3, 3), (1, 2, 2), padding=1)(2 * x - 1)
    for i, width in enumerate(self.widths):
      x = Block(width, 1 + (width != x.shape[-1]), self.shortcut,
                name=f'block{i}')(x)
    if self.closed:
      x = _activated(x, 'closing')
    return nn.Dense(self.num_classes)(x.mean((1, 2, 3)))


def _activated(x, name):
  return nn.relu(nn.BatchNorm(use_running_average=True, name=name)(x))
