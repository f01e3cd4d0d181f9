"""A chain of convolutions and one dense layer: the shape of LeNet and C3D.

The same description serves the linen module and the list of layers that the
closed-form attack walks down.
"""

from typing import NamedTuple

import flax.linen as nn
import jax

from vidleak_jax.models.layers import ACTIVATIONS, LOWERINGS, conv, standardize
from vidleak_jax.models.norms import Norm
from vidleak_jax.types import Layer


class ConvSpec(NamedTuple):
  """One convolution, padded by half its kernel."""
  width: int
  kernel: tuple[int, ...]
  strides: tuple[int, ...]

  @property
  def padding(self) -> list[tuple[int, int]]:
    return [(k // 2, k // 2) for k in self.kernel]


class Stack(nn.Module):
  """conv -> activation, several times, then a dense head."""
  specs: tuple[ConvSpec, ...]
  num_classes: int
  activation: str
  lowering: str
  kernel_init: nn.initializers.Initializer = nn.initializers.he_normal()
  bias_init: nn.initializers.Initializer = nn.initializers.zeros_init()
  norm: str = 'none'
  inputs: str = 'unit'

  @nn.compact
  def __call__(self, clips):
    x = standardize(clips, self.inputs)
    if len(self.specs[0].kernel) == 2:  # a 2-D network sees clips of one frame
      x = x[:, 0]
    inits = {'kernel_init': self.kernel_init, 'bias_init': self.bias_init}
    for i, spec in enumerate(self.specs):
      x = conv(spec.width, spec.kernel, spec.strides, padding=spec.padding,
               lowering=self.lowering, name=f'conv{i}', **inits)(x)
      x = Norm(self.norm, name=f'norm{i}')(x)
      x = ACTIVATIONS[self.activation](x)
    x = x.reshape(x.shape[0], -1)
    return nn.Dense(self.num_classes, name='head', **inits)(x)


def list_layers(stack: Stack, in_shape: tuple[int, ...]) -> tuple[Layer, ...]:
  """The stack's layers for an input of `in_shape` (no batch axis).

  There are none to list where a norm or an input scale stands between them.
  """
  if stack.norm != 'none' or stack.inputs != 'unit':
    return ()
  layers, shape = [], tuple(in_shape)
  for i, spec in enumerate(stack.specs):
    linear = _convolution(spec, stack.lowering)
    layers.append(Layer(f'conv{i}', linear, stack.activation, shape,
                        ACTIVATIONS[stack.activation]))
    kernel = jax.ShapeDtypeStruct((*spec.kernel, shape[-1], spec.width), float)
    inputs = jax.ShapeDtypeStruct((1, *shape), float)
    shape = jax.eval_shape(linear, kernel, inputs).shape[1:]
  return *layers, Layer(
      'head', _dense, 'identity', shape, ACTIVATIONS['identity'])


def _convolution(spec, lowering):
  space = 'DHW'[-len(spec.kernel):]
  layout = f'N{space}C', f'{space}IO', f'N{space}C'

  def linear(kernel, x):
    numbers = jax.lax.conv_dimension_numbers(x.shape, kernel.shape, layout)
    return LOWERINGS[lowering](x, kernel, spec.strides, spec.padding,
                               dimension_numbers=numbers)
  return linear


def _dense(kernel, x):
  return x.reshape(x.shape[0], -1) @ kernel
