"""A 2-D network on each frame and a recurrent one over them.

The habit of LRCN (Donahue et al., 1411.4389).

Its layers are listed with the frames as one axis of their inputs. The recurrent
one is the dense layer of its gates, and its `activate` one step of the cell.
"""

from typing import NamedTuple

import flax.linen as nn

from vidleak_jax.models import stack
from vidleak_jax.models.layers import ACTIVATIONS, conv, standardize
from vidleak_jax.models.norms import Norm
from vidleak_jax.models.recurrent import CELLS, Recurrent
from vidleak_jax.types import Layer, Victim, pick
from vidleak_jax.victims import base


class Size(NamedTuple):
  """Widths of the layers."""
  convs: tuple[tuple[int, int, int], ...]  # width, kernel, stride
  feature: int  # width of a dense layer on each frame; 0 for none
  hidden: int   # of the recurrent layer


PRESETS = {
    'tiny': Size(((4, 3, 2), (4, 3, 2)), 0, 8),
    'small': Size(((32, 3, 1), (32, 3, 2), (64, 3, 2)), 0, 128),
    # CaffeNet's layers, strides instead of pooling, and LRCN's 256 units
    'full': Size(((96, 11, 4), (256, 5, 2), (384, 3, 2), (384, 3, 1),
                  (256, 3, 2)), 4096, 256),
}

# From a torch module with `features` (a Sequential of Conv2d and activation),
# `feature` (Linear), `rnn` (GRU or LSTM) and `fc` (Linear).
NAMES = (
    (r'^features\.(\d+)', lambda m: f'conv{int(m[1]) // 2}'),
    (r'^rnn\.weight_ih_l0', 'rnn.input.weight'),
    (r'^rnn\.weight_hh_l0', 'rnn.hidden.weight'),
    (r'^rnn\.bias_ih_l0', 'rnn.input.bias'),
    (r'^rnn\.bias_hh_l0', 'rnn.hidden.bias'),
    (r'^fc', 'head'),
)


class CnnRnn(nn.Module):
  """Convolutions on each frame, a recurrent layer, a dense head."""
  size: Size
  num_classes: int
  cell: str
  activation: str
  norm: str
  inputs: str
  lowering: str

  @nn.compact
  def __call__(self, clips):
    size, activation = self.size, ACTIVATIONS[self.activation]
    x = standardize(clips, self.inputs)
    x = x.reshape(-1, *clips.shape[2:])
    for i, (width, kernel, stride) in enumerate(size.convs):
      x = conv(width, (kernel,) * 2, (stride,) * 2, name=f'conv{i}',
               padding=[(kernel // 2,) * 2] * 2, lowering=self.lowering,
               kernel_init=nn.initializers.he_normal())(x)
      x = activation(Norm(self.norm, name=f'norm{i}')(x))
    x = x.reshape(*clips.shape[:2], -1)
    if size.feature:
      x = activation(nn.Dense(size.feature, name='feature')(x))
    x = Recurrent(size.hidden, self.cell, name='rnn')(x)
    return nn.Dense(self.num_classes, name='head')(x)


def cnn_gru(
    clip_shape: tuple[int, ...],
    num_classes: int,
    *,
    preset: str = 'small',
    cell: str = 'gru',
    activation: str = 'leaky_relu',
    norm: str = 'none',
    inputs: str = 'unit',
    lowering: str = 'matmul',
) -> Victim:
  """Convolutions on each frame, a GRU or LSTM over frames, a dense head.

  Args:
    clip_shape: (T, H, W, C).
    num_classes: K.
    preset: a name of `PRESETS`.
    cell: a name of `recurrent.CELLS`.
    activation: a name of `layers.ACTIVATIONS`, of the convolutions.
    norm: a name of `norms.NORMS`, after each convolution.
    inputs: a name of `layers.INPUTS`.
    lowering: of the convolutions.
  """
  size = pick(PRESETS, preset, 'preset of cnn_gru')
  module = CnnRnn(size, num_classes, cell, activation, norm, inputs, lowering)
  return base.from_module(module, clip_shape, num_classes,
                          chain=_list_layers(module, clip_shape))


def _list_layers(module: CnnRnn, clip_shape: tuple[int, ...]
                 ) -> tuple[Layer, ...]:
  """None where a norm, an input scale or a dense layer stands between them."""
  specs = tuple(stack.ConvSpec(width, (kernel,) * 2, (stride,) * 2)
                for width, kernel, stride in module.size.convs)
  found = stack.list_layers(
      stack.Stack(specs, module.num_classes, module.activation, module.lowering,
                  norm=module.norm, inputs=module.inputs), clip_shape[1:])
  if not found or module.size.feature:
    return ()
  *convs, head = found
  num_frames, hidden = clip_shape[0], module.size.hidden
  return (*(_on_frames(layer, num_frames) for layer in convs),
          Layer('rnn', _gates, module.cell,
                (num_frames, *head.in_shape), CELLS[module.cell][1]),
          head._replace(in_shape=(hidden,)))


def _on_frames(layer, num_frames):
  def linear(kernel, x):
    y = layer.linear(kernel, x.reshape(-1, *layer.in_shape))
    return y.reshape(-1, num_frames, *y.shape[1:])
  return layer._replace(linear=linear, in_shape=(num_frames, *layer.in_shape))


def _gates(kernel, x):
  return x.reshape(*x.shape[:2], -1) @ kernel
