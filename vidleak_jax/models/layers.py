"""Layers that every victim shares: activations and the one convolution.

XLA lowers a vmapped convolution's weight gradient to a grouped convolution,
which is hundreds of times slower than a matrix product on CPU. So victims call
`conv`, whose lowering is chosen per backend, never a bare `nn.Conv`.
"""

import contextlib
import contextvars
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

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

_PLAIN = contextvars.ContextVar('plain_layers', default=False)
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
  lower = pick(LOWERINGS, lowering, 'convolution lowering')
  return nn.Conv(features, tuple(kernel_size), conv_general_dilated=lower,
                 strides=strides, kernel_init=flat(kernel_init), **kwargs)


def by_channel(values: Array, like: Array) -> Array:
  """Returns one value a channel [C] with as many axes as `like` [..., C]."""
  return values.reshape((1,) * (like.ndim - 1) + values.shape)


@contextlib.contextmanager
def plain_layers() -> Iterator[None]:
  """Scope in which a network is traced as it is written.

  `matmul_conv` is XLA's own convolution, and equal blocks are no loop.
  """
  token = _PLAIN.set(True)
  try:
    yield
  finally:
    _PLAIN.reset(token)


def is_plain() -> bool:
  """Whether this is inside of `plain_layers`."""
  return _PLAIN.get()


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
  if is_plain():
    return lax.conv_general_dilated(
        inputs, kernel, window_strides, padding, lhs_dilation, rhs_dilation,
        dimension_numbers or _channels_last(inputs, kernel),
        feature_group_count, precision=precision)
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

  axes = [_Axis(*own) for own in zip(
      range(1, ndim + 1), window, window_strides, dilation, padding)]
  product = functools.partial(jnp.matmul, precision=precision)
  if _shift_pays(inputs.shape, kernel.shape, window_strides):
    return _shifted_products(inputs, kernel, axes, product)
  return product(_patches(inputs, axes), kernel.reshape(-1, kernel.shape[-1]))


class _Axis(NamedTuple):
  """A spatial axis of a convolution."""
  index: int  # in the input
  taps: int
  stride: int
  dilation: int
  padding: tuple[int, int]

  def size(self, length):
    """Of the output, from the input's."""
    span = (self.taps - 1) * self.dilation + 1
    return (length + sum(self.padding) - span) // self.stride + 1


def _shift_pays(in_shape, kernel_shape, strides):
  """Whether outputs of each tap of the first axis are cheaper than patches.

  Of a kernel along that axis alone patches are as cheap, and compile faster.
  """
  *window, inputs, outputs = kernel_shape
  positions = math.prod(in_shape[:-1]) // math.prod(strides)
  return (2 * window[0] * outputs <= math.prod(window) * inputs
          and positions >= outputs and math.prod(window[1:]) > 1)


def _patches(x, axes):
  """[B, *space', window x Cin], in the order of the kernel's rows."""
  for axis in reversed(axes):
    x = _gather_taps(x, axis)
  return x


def _shifted_products(x, kernel, axes, product):
  """Patches of all axes but the first, whose taps are summed as outputs.

  Patches then repeat the input 9 times, not 27. Frames that meet the same taps
  (every stride-th) share one product, so that none is computed in vain.
  """
  first, *rest = axes
  size, features = first.size(x.shape[first.index]), kernel.shape[-1]
  offsets = [tap * first.dilation - first.padding[0]
             for tap in range(first.taps)]
  out = 0.0
  for phase in sorted({offset % first.stride for offset in offsets}):
    own = [t for t in range(first.taps) if offsets[t] % first.stride == phase]
    frames = lax.slice_in_dim(
        x, phase, x.shape[first.index], first.stride, first.index)
    columns = [kernel[tap].reshape(-1, features) for tap in own]
    y = product(_patches(frames, rest), jnp.concatenate(columns, axis=-1))
    parts = lax.split(y, (features,) * len(own), y.ndim - 1)
    for tap, part in zip(own, parts):
      shift = offsets[tap] // first.stride
      out += _pad(part, first.index, -shift,
                  size + shift - part.shape[first.index])
  return out


def _gather_taps(x, axis):
  """Stacks the window's taps along one axis onto the channels.

  Strided taps come from a split into phases, whose transpose is one
  concatenation; a strided slice's is slow.
  """
  index, taps, stride, dilation, (low, _) = axis
  size = axis.size(x.shape[index])
  rows = size + (taps - 1) * dilation // stride
  x = _pad(x, index, low, rows * stride - low - x.shape[index])
  x = x.reshape(*x.shape[:index], rows, stride, *x.shape[index + 1:])
  phases = [phase.squeeze(index + 1)
            for phase in lax.split(x, (1,) * stride, index + 1)]
  starts = [divmod(tap * dilation, stride) for tap in range(taps)]
  slices = [lax.slice_in_dim(phases[phase], row, row + size, axis=index)
            for row, phase in starts]
  return slices[0] if taps == 1 else jnp.concatenate(slices, axis=-1)


def _pad(x, axis, low, high):
  """Zeros on both sides of one axis; negative counts cut."""
  config = [(0, 0, 0)] * x.ndim
  config[axis] = (low, high, 0)
  return lax.pad(x, jnp.zeros((), x.dtype), config)


def _channels_last(inputs, kernel):
  space = 'DHW'[2 - kernel.ndim:]
  layout = f'N{space}C', f'{space}IO', f'N{space}C'
  return lax.conv_dimension_numbers(inputs.shape, kernel.shape, layout)


LOWERINGS = {'matmul': matmul_conv, 'lax': lax.conv_general_dilated}
