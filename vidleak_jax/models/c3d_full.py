"""C3D with pooling and two wide dense layers, as published (1412.0767)."""

from typing import NamedTuple

import flax.linen as nn

from vidleak_jax.models.layers import ACTIVATIONS, conv, max_pool, standardize
from vidleak_jax.models.norms import Norm


class Size(NamedTuple):
  """The published numbers of C3D."""
  stages: tuple[tuple[int, ...], ...]  # widths of the convolutions of each
  dense: int
  dropout: float = 0.5


# From the names of the common torch port: conv1, conv2, conv3a, ..., fc8.
NAMES = (
    (r'^conv(\d)(a?)\.', r'conv\1_0.'),
    (r'^conv(\d)b\.', r'conv\1_1.'),
    (r'^fc8', 'head'),
)


class C3d(nn.Module):
  """3x3x3 convolutions and max pooling in stages, then three dense layers."""
  size: Size
  num_classes: int
  activation: str
  norm: str
  inputs: str
  lowering: str

  @nn.compact
  def __call__(self, clips, deterministic=True):
    activation = ACTIVATIONS[self.activation]
    x = standardize(clips, self.inputs)
    last = len(self.size.stages)
    for stage, widths in enumerate(self.size.stages, 1):
      for i, width in enumerate(widths):
        name = f'{stage}_{i}'
        x = conv(width, (3, 3, 3), padding=[(1, 1)] * 3, name=f'conv{name}',
                 lowering=self.lowering,
                 kernel_init=nn.initializers.he_normal())(x)
        x = activation(Norm(self.norm, name=f'norm{name}')(x))
      window = (1, 2, 2) if stage == 1 else (2, 2, 2)
      x = max_pool(x, window, window, (0, 1, 1) if stage == last else (0, 0, 0))
    # Channels first, as the published dense weights expect them.
    x = x.transpose(0, 4, 1, 2, 3).reshape(x.shape[0], -1)
    for name in ('fc6', 'fc7'):
      x = activation(nn.Dense(self.size.dense, name=name,
                              kernel_init=nn.initializers.he_normal())(x))
      x = nn.Dropout(self.size.dropout, deterministic=deterministic)(x)
    return nn.Dense(self.num_classes, name='head')(x)
