"""Layers that every victim shares: activations and the one convolution.

XLA lowers a vmapped convolution's weight gradient to a grouped convolution,
which is hundreds of times slower than a matrix product on CPU. So victims call
`conv`, whose lowering is chosen per backend, never a bare `nn.Conv`.
"""

import functools
import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax import lax

from vidleak_jax.types import Array, pick

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    'relu': nn.relu,
    'leaky_relu': nn.leaky_relu,
    'gelu': nn.gelu,  # with tanh
    'gelu_exact': functools.partial(nn.gelu, approximate=False),
    'softplus': nn.softplus,
    'sigmoid': nn.sigmoid,
    'tanh': nn.tanh,
    'identity': lambda x: x,
}

_LECUN_NORMAL = nn.initializers.lecun_normal()

# name -> mean and standard deviation that a network takes off its input
INPUTS: dict[str, tuple] = {
    'unit': (0.0, 1.0),
    'half': (0.5, 0.5),
    'imagenet': ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    'kinetics': ((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)),
}


def standardize(clips: Array, name: str) -> Array:
  """Clips in [0, 1] in the scale of `INPUTS[name]`."""
  if name == 'unit':
    return clips
  mean, std = pick(INPUTS, name, 'input scale')
  return (clips - jnp.asarray(mean)) / jnp.asarray(std)


def unstandardize(x: Array, name: str) -> Array:
  """The inverse of `standardize`."""
  mean, std = pick(INPUTS, name, 'input scale')
  return x * jnp.asarray(std) + jnp.asarray(mean)


def max_pool(
    x: Array,
    window: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[int],
) -> Array:
  """Max pooling, one axis at a time by strided slices.

  Its second derivative is cheap everywhere, unlike that of `reduce_window`.

  Args:
    x: [B, *space, C].
    window: one per spatial axis, as are strides and padding (on both sides).
  """
  for axis, (taps, stride, pad) in enumerate(zip(window, strides, padding), 1):
    pads = [(0, 0)] * x.ndim
    pads[axis] = (pad, pad)
    x = jnp.pad(x, pads, constant_values=-jnp.inf)
    size = (x.shape[axis] - taps) // stride + 1
    x = functools.reduce(jnp.maximum, [
        lax.slice_in_dim(x, tap, tap + (size - 1) * stride + 1, stride, axis)
        for tap in range(taps)
    ])
  return x


def flat(init: nn.initializers.Initializer) -> nn.initializers.Initializer:
  """The same numbers, drawn as a matrix [inputs of an output, outputs].

  XLA takes a second to compile each random array of five axes.
  """
  def draw(key, shape, dtype=jnp.float32):
    matrix = math.prod(shape[:-1]), shape[-1]
    return init(key, matrix, dtype).reshape(shape)
  return draw


def conv(
    features: int,
    kernel_size: Sequence[int],
    strides: Sequence[int] | None = None,
    *,
    lowering: str = 'matmul',
    kernel_init: nn.initializers.Initializer = _LECUN_NORMAL,
    **kwargs,
) -> nn.Conv:
  """An `nn.Conv` (same parameter tree) with one of the `LOWERINGS`."""
  return nn.Conv(
      features,
      tuple(kernel_size),
      strides,
      conv_general_dilated=pick(LOWERINGS, lowering, 'convolution lowering'),
      kernel_init=flat(kernel_init),
      **kwargs,
  )


def matmul_conv(
    inputs: Array,
    kernel: Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    *,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: lax.ConvDimensionNumbers | None = None,
    feature_group_count: int = 1,
    precision: lax.PrecisionLike = None,
) -> Array:
  """`lax.conv_general_dilated`, channels last, as one matrix product.

  Patches are gathered one axis at a time (separable im2col): a 3x3x3 kernel
  costs 3 + 3 + 3 strided slices instead of 27.

  Args:
    inputs: [B, *space, Cin].
    kernel: [*window, Cin, Cout].
    window_strides: one per spatial axis.
    padding: 'SAME', 'VALID' or (low, high) per spatial axis.
    lhs_dilation: must be 1 everywhere.
    rhs_dilation: spacing of the kernel's taps per spatial axis.
    dimension_numbers: must be channels last.
    feature_group_count: must be 1.
    precision: of the product.

  Returns:
    [B, *space', Cout].

  Raises:
    NotImplementedError: for grouped, transposed or channels-first use.
  """
  ndim = kernel.ndim - 2
  dilation = tuple(rhs_dilation or (1,) * ndim)
  if feature_group_count != 1 or any(d != 1 for d in lhs_dilation or ()):
    raise NotImplementedError('Grouped and transposed convolutions: use lax.')
  if dimension_numbers not in (None, _channels_last(inputs, kernel)):
    raise NotImplementedError(f'Not channels last: {dimension_numbers}.')
  window = kernel.shape[:ndim]
  if isinstance(padding, str):
    spans = [(k - 1) * d + 1 for k, d in zip(window, dilation)]
    padding = lax.padtype_to_pads(
        inputs.shape[1:-1], spans, window_strides, padding)

  # Strided axes first: they shrink what the later ones have to copy.
  order = sorted(range(ndim), key=lambda axis: -window_strides[axis])
  patches = inputs
  for axis in order:
    patches = _gather_taps(patches, axis + 1, window[axis],
                           window_strides[axis], dilation[axis], padding[axis])
  # Each pass put its taps before the channels: the last axis is outermost.
  matrix = kernel.transpose(*reversed(order), ndim, ndim + 1)
  matrix = matrix.reshape(-1, kernel.shape[-1])
  return jnp.matmul(patches, matrix, precision=precision)


def _gather_taps(x, axis, taps, stride, dilation, padding):
  """Stacks the window's taps along one axis onto the channels."""
  pads = [(0, 0)] * x.ndim
  pads[axis] = tuple(padding)
  x = jnp.pad(x, pads)
  size = (x.shape[axis] - (taps - 1) * dilation - 1) // stride + 1
  slices = [
      lax.slice_in_dim(x, tap * dilation,
                       tap * dilation + (size - 1) * stride + 1, stride, axis)
      for tap in range(taps)
  ]
  return slices[0] if taps == 1 else jnp.concatenate(slices, axis=-1)


def _channels_last(inputs, kernel):
  space = 'DHW'[2 - kernel.ndim:]
  layout = f'N{space}C', f'{space}IO', f'N{space}C'
  return lax.conv_dimension_numbers(inputs.shape, kernel.shape, layout)


LOWERINGS = {'matmul': matmul_conv, 'lax': lax.conv_general_dilated}
