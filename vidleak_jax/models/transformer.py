"""What the video transformers share: tubelets, attention, pre-norm blocks."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from vidleak_jax.models.layers import ACTIVATIONS, standardize, unstandardize
from vidleak_jax.models.norms import Norm
from vidleak_jax.models.repeat import repeat
from vidleak_jax.types import Array, UserError


class Size(NamedTuple):
  """The published numbers of a transformer."""
  tubelet: tuple[int, int, int]  # frames, rows, columns of one token
  width: int
  depth: int
  heads: int
  mlp: int  # width inside a block


class Style(NamedTuple):
  """Choices that every block of a network has in common."""
  heads: int
  mlp: int
  activation: str
  norm: str
  eps: float
  key_bias: bool = True


class Attention(nn.Module):
  """Multi-head self-attention over the last but one axis of [..., N, D]."""
  style: Style

  @nn.compact
  def __call__(self, x):
    *lead, tokens, width = x.shape
    heads = self.style.heads

    def project(name, use_bias=True):
      y = dense(width, name, use_bias=use_bias)(x)
      return y.reshape(-1, tokens, heads, width // heads)

    y = jax.nn.dot_product_attention(
        project('query'), project('key', self.style.key_bias), project('value'))
    return dense(width, 'out')(y.reshape(*lead, tokens, width))


class Mlp(nn.Module):
  """Two dense layers."""
  style: Style

  @nn.compact
  def __call__(self, x):
    y = dense(self.style.mlp, 'in')(x)
    return dense(x.shape[-1], 'out')(ACTIVATIONS[self.style.activation](y))


class Block(nn.Module):
  """Pre-norm attention and MLP, each with its residual (2010.11929)."""
  style: Style

  @nn.compact
  def __call__(self, x):
    style = self.style
    y = Norm(style.norm, style.eps, name='norm1')(x)
    x = x + Attention(style, name='attention')(y)
    y = Norm(style.norm, style.eps, name='norm2')(x)
    return x + Mlp(style, name='mlp')(y)


class Encoder(nn.Module):
  """Learned positions, blocks and pooling: tokens [B, N, D] to [B, D].

  Attributes:
    depth: blocks.
    style: of the blocks.
    pool: a name of `POOLS`; 'token' reads a class token that precedes the rest.
  """
  depth: int
  style: Style
  pool: str

  @nn.compact
  def __call__(self, x):
    width = x.shape[-1]
    num_special = POOLS[self.pool]
    if num_special:
      token = self.param('cls', nn.initializers.zeros_init(), (1, 1, width))
      x = prepend(token, x)
    x = x + self.param('positions', nn.initializers.normal(0.02),
                       (1, *x.shape[1:]))
    x, = repeat(self, functools.partial(Block, self.style), self.depth, x)
    x = Norm(self.style.norm, self.style.eps, name='norm')(x)
    return x[:, 0] if num_special else jnp.mean(x, axis=1)


POOLS = {'token': 1, 'mean': 0}  # -> class tokens that it takes


def dense(width: int, name: str, use_bias: bool = True) -> nn.Dense:
  """A dense layer with the ViT's initialisation."""
  return nn.Dense(width, use_bias, name=name,
                  kernel_init=nn.initializers.xavier_uniform())


def tubelets(
    clip_shape: tuple[int, ...], size: tuple[int, int, int], inputs: str,
) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
  """Clips [B, T, H, W, C] in [0, 1] to tubelets [B, N, P], and back.

  Args:
    clip_shape: (T, H, W, C).
    size: frames, rows and columns of a tubelet.
    inputs: a name of `layers.INPUTS`, the tubelets' scale.

  Raises:
    UserError: for a clip that the tubelets do not tile.
  """
  *space, colours = clip_shape
  if any(n % s for n, s in zip(space, size)):
    raise UserError(
        f'A clip of {tuple(space)} (frames, rows, columns) is not tiled by '
        f'tubelets of {size}. Set data.num_frames and data.image_size to '
        'multiples of these.')
  grid = [n // s for n, s in zip(space, size)]
  split = [n for pair in zip(grid, size) for n in pair]

  def patches(clips):
    x = standardize(clips, inputs).reshape(-1, *split, colours)
    x = x.transpose(0, 1, 3, 5, 2, 4, 6, 7)
    return x.reshape(-1, math.prod(grid), math.prod(size) * colours)

  def unpatch(x):
    x = x.reshape(-1, *grid, *size, colours).transpose(0, 1, 4, 2, 5, 3, 6, 7)
    return unstandardize(x.reshape(-1, *clip_shape), inputs)

  return patches, unpatch


def prepend(token: Array, x: Array) -> Array:
  """Puts a learned token [1, 1, D] before the tokens of x [B, N, D]."""
  token = jnp.broadcast_to(token, (x.shape[0], 1, x.shape[-1]))
  return jnp.concatenate([token, x], axis=1)
