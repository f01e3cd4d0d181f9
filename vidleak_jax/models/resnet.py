"""Residual networks, over frames or over clips (He et al., 1512.03385)."""

import math
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from vidleak_jax.models.layers import ACTIVATIONS, conv, max_pool, standardize
from vidleak_jax.models.norms import Norm
from vidleak_jax.types import Array


class Size(NamedTuple):
  """The published numbers of a residual network."""
  stem: tuple[int, ...]          # kernel of the first convolution
  stem_strides: tuple[int, ...]
  stem_width: int
  widths: tuple[int, ...]        # outputs of each stage
  depths: tuple[int, ...]        # blocks of each stage
  pool: bool = False             # 3x3 max pooling after the stem
  bottleneck: bool = False
  projection: bool = True        # shortcuts by 1x1 convolution, else by padding
  stem_middle: int = 0           # channels between space and time in the stem


# CIFAR's network of 20 layers.
RESNET20 = Size((3, 3), (1, 1), 16, (16, 32, 64), (3, 3, 3), projection=False)

# From torchvision's names, which the CIFAR networks share, and transformers'.
NAMES = (
    (r'^resnet\.', ''),
    (r'^embedder\.embedder', 'stem'),
    (r'^encoder\.stages\.(\d+)\.layers\.(\d+)', r'stage\1_\2'),
    (r'\.layer\.(\d+)', r'.unit\1'),
    (r'convolution', 'conv'),
    (r'normalization', 'norm'),
    (r'^layer(\d+)\.(\d+)', lambda m: f'stage{int(m[1]) - 1}_{m[2]}'),
    (r'^conv1', 'stem.conv'),
    (r'^bn1', 'stem.norm'),
    (r'\.conv(\d+)', lambda m: f'.unit{int(m[1]) - 1}.conv'),
    (r'\.bn(\d+)', lambda m: f'.unit{int(m[1]) - 1}.norm'),
    (r'downsample\.0', 'shortcut.conv'),
    (r'downsample\.1', 'shortcut.norm'),
    (r'^(linear|fc|classifier\.1)\.', 'head.'),
)


class Style(NamedTuple):
  """Choices that every layer of a network has in common."""
  activation: str
  norm: str
  lowering: str
  factorised: bool = False  # 3-D convolutions as space, then time: R(2+1)D


class Unit(nn.Module):
  """A convolution and its norm; through `middle` channels if factorised."""
  width: int
  kernel: tuple[int, ...]
  strides: tuple[int, ...]
  style: Style
  middle: int = 0

  @nn.compact
  def __call__(self, x: Array) -> Array:
    style, kernel, strides = self.style, self.kernel, self.strides
    if self.middle:
      x = self._conv(self.middle, (1, *kernel[1:]), (1, *strides[1:]),
                     'space')(x)
      x = Norm(style.norm, name='space_norm')(x)
      x = ACTIVATIONS[style.activation](x)
      kernel, strides = (kernel[0], 1, 1), (strides[0], 1, 1)
    x = self._conv(self.width, kernel, strides, 'conv')(x)
    return Norm(style.norm, name='norm')(x)

  def _conv(self, width, kernel, strides, name):
    return conv(width, kernel, strides, lowering=self.style.lowering,
                padding=[(k // 2, k // 2) for k in kernel], use_bias=False,
                kernel_init=_he_normal(math.prod(kernel) * width), name=name)


class Block(nn.Module):
  """Two units, or three around a bottleneck, and the shortcut."""
  width: int
  stride: int
  size: Size
  style: Style

  @nn.compact
  def __call__(self, x: Array) -> Array:
    ndim, width, style = x.ndim - 2, self.width, self.style
    one, three, strides = (1,) * ndim, (3,) * ndim, (self.stride,) * ndim
    specs = [(width, three, strides), (width, three, one)]
    if self.size.bottleneck:
      inner = width // 4
      specs = [(inner, one, one), (inner, three, strides), (width, one, one)]
    middle = 0
    if style.factorised:
      middle = _num_middle(x.shape[-1], width)
    y = x
    for i, spec in enumerate(specs):
      y = ACTIVATIONS[style.activation](y) if i else y
      y = Unit(*spec, style, middle, name=f'unit{i}')(y)
    if x.shape != y.shape:
      x = self._shortcut(x, strides)
    self.sow('intermediates', 'before', x + y)  # dropped, unless asked for
    return ACTIVATIONS[style.activation](x + y)

  def _shortcut(self, x, strides):
    if self.size.projection:
      return Unit(self.width, (1,) * len(strides), strides, self.style,
                  name='shortcut')(x)
    x = x[(slice(None), *(slice(None, None, s) for s in strides))]
    extra = (self.width - x.shape[-1]) // 2
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(extra, extra)])


class ResNet(nn.Module):
  """Frames [B, H, W, C] or clips [B, T, H, W, C] to mean features [B, F].

  With `num_classes`, to logits [B, K].
  """
  size: Size
  style: Style
  num_classes: int = 0
  inputs: str = 'unit'

  @nn.compact
  def __call__(self, x: Array) -> Array:
    size, style = self.size, self.style
    x = standardize(x, self.inputs)
    x = Unit(size.stem_width, size.stem, size.stem_strides, style,
             size.stem_middle, name='stem')(x)
    x = ACTIVATIONS[style.activation](x)
    if size.pool:
      ndim = x.ndim - 2
      x = max_pool(x, (3,) * ndim, (2,) * ndim, (1,) * ndim)
    for stage, (width, depth) in enumerate(zip(size.widths, size.depths)):
      for i in range(depth):
        stride = 2 if stage and not i else 1
        x = Block(width, stride, size, style, name=f'stage{stage}_{i}')(x)
    x = jnp.mean(x, axis=range(1, x.ndim - 1))
    return nn.Dense(self.num_classes, name='head')(x) if self.num_classes else x


def _he_normal(fan_out: int) -> nn.initializers.Initializer:
  return nn.initializers.normal(math.sqrt(2 / fan_out))


def _num_middle(width_in: int, width_out: int) -> int:
  """As many channels as keep the 3-D convolution's number of weights."""
  return width_in * width_out * 27 // (width_in * 9 + width_out * 3)
