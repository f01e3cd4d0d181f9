"""Classifiers on the frozen features of frames, [B, T, F] to logits [B, K]."""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from vidleak_jax.models import stack, transformer
from vidleak_jax.models.layers import ACTIVATIONS, conv
from vidleak_jax.models.norms import Norm
from vidleak_jax.models.recurrent import Recurrent
from vidleak_jax.types import Array, Layer

_MATRIX_STRIDES = 2, 2, 1, 1


class Mlp(nn.Module):
  """Dense layers on the features' mean over the frames."""
  num_classes: int
  widths: tuple[int, ...]
  activation: str
  norm: str = 'none'
  dropout: float = 0.0
  scale: float = 0.0  # weights are uniform in [-scale, scale]; 0: torch's habit

  @nn.compact
  def __call__(self, features: Array, deterministic: bool = True) -> Array:
    x = jnp.mean(features, axis=1)
    for i, width in enumerate(self.widths):
      x = self._dense(x, width, f'dense{i}')
      x = Norm(self.norm, name=f'norm{i}')(x)
      x = ACTIVATIONS[self.activation](x)
      x = nn.Dropout(self.dropout, deterministic=deterministic)(x)
    return self._dense(x, self.num_classes, 'head')

  def _dense(self, x, width, name):
    init = uniform(self.scale or x.shape[-1] ** -0.5)
    return nn.Dense(width, name=name, kernel_init=init, bias_init=init)(x)


class Matrix(nn.Module):
  """A LeNet that takes the frames' features as channels of a 1 x F map."""
  num_classes: int
  activation: str
  lowering: str

  @nn.compact
  def __call__(self, features: Array) -> Array:
    init = uniform(0.5)
    x = features.swapaxes(1, 2)[:, None]
    for i, stride in enumerate(_MATRIX_STRIDES):
      x = conv(12, (5, 5), (stride, stride), padding=[(2, 2), (2, 2)],
               lowering=self.lowering, kernel_init=init, bias_init=init,
               name=f'conv{i}')(x)
      x = ACTIVATIONS[self.activation](x)
    x = x.reshape(x.shape[0], -1)
    return nn.Dense(self.num_classes, name='head', kernel_init=init,
                    bias_init=init)(x)


def matrix_layers(
    num_classes: int, activation: str, lowering: str, in_shape: tuple[int, int],
) -> tuple[Layer, ...]:
  """The layers of `Matrix` for features [T, F], for the closed form."""
  frames, width = in_shape
  specs = tuple(stack.ConvSpec(12, (5, 5), (s, s)) for s in _MATRIX_STRIDES)
  first, *rest = stack.list_layers(
      stack.Stack(specs, num_classes, activation, lowering),
      (1, width, frames))

  def linear(kernel, x):
    return first.linear(kernel, x.swapaxes(1, 2)[:, None])
  return first._replace(linear=linear, in_shape=in_shape), *rest


class Sequence(nn.Module):
  """A GRU or LSTM over the frames' features."""
  num_classes: int
  width: int
  cell: str

  @nn.compact
  def __call__(self, features: Array) -> Array:
    x = Recurrent(self.width, self.cell, name='rnn')(features)
    return nn.Dense(self.num_classes, name='head')(x)


class Attention(nn.Module):
  """A small transformer over the frames' features."""
  num_classes: int
  width: int
  depth: int
  style: transformer.Style

  @nn.compact
  def __call__(self, features: Array) -> Array:
    x = transformer.dense(self.width, 'embed')(features)
    x = transformer.Encoder(self.depth, self.style, 'mean', name='encoder')(x)
    return transformer.dense(self.num_classes, 'head')(x)


def uniform(scale: float) -> nn.initializers.Initializer:
  """Uniform in [-scale, scale]."""
  def init(key, shape, dtype=jnp.float32):
    return jax.random.uniform(key, shape, dtype, -scale, scale)
  return init


class Head(NamedTuple):
  """A head by name."""
  make: Callable[..., nn.Module]  # (num_classes, activation, lowering)
  activation: str
  takes_mean: bool = False  # 'dense0' sees the features' mean over the frames
  # (num_classes, activation, lowering, (T, F)) -> its layers
  layers: Callable[..., tuple[Layer, ...]] = lambda *_: ()


def _mlp(widths, activation='relu', **kwargs):
  return Head(lambda k, act, lowering: Mlp(k, widths, act, **kwargs),
              activation, takes_mean=True)


def _transformer(num_classes, activation, lowering):
  style = transformer.Style(4, 128, activation, 'layer', 1e-6)
  return Attention(num_classes, 64, 2, style)


# The classifiers and the feature matrix are those of 2509.09742's notebooks.
HEADS = {
    'classifier1': _mlp((32,), scale=0.5),
    'classifier2': _mlp((128, 64), dropout=0.3),
    'classifier3': _mlp((64, 32), norm='layer', dropout=0.2),
    'mlp': _mlp((256,), 'gelu'),
    'matrix': Head(Matrix, 'sigmoid', layers=matrix_layers),
    'gru': Head(lambda k, act, lowering: Sequence(k, 128, 'gru'), 'tanh'),
    'lstm': Head(lambda k, act, lowering: Sequence(k, 128, 'lstm'), 'tanh'),
    'transformer': Head(_transformer, 'gelu'),
}
