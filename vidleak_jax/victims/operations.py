"""What one node of a layer graph does: typed options and the function itself.

Each operation is called as `operation(leaves, *inputs)` with the parameters by
path and the inputs with their batch axis. `paths` are the leaves it reads.
Axes count the batch axis, as in the network itself.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import lax

from vidleak_jax.types import Array
from vidleak_jax.victims.tracing import Leaves, Path, Program

frozen = functools.partial(dataclasses.dataclass, frozen=True, eq=False)


class Operation:
  """The base of all operations."""
  kind: ClassVar[str] = 'opaque'

  @property
  def paths(self) -> tuple[Path, ...]:
    """Paths of the parameters that it reads."""
    return ()

  def __call__(self, leaves: Leaves, *inputs: Array) -> Array:
    raise NotImplementedError


@frozen()
class Input(Operation):
  """The clips."""
  kind: ClassVar[str] = 'input'


@frozen()
class Linear(Operation):
  """`linear(kernel, x) + bias`; the kernel is a leaf, or a constant."""
  kernel: Program
  bias: Program | None

  @property
  def paths(self) -> tuple[Path, ...]:
    bias = self.bias.paths if self.bias else ()
    return self.kernel.paths + bias

  @property
  def kernel_path(self) -> Path | None:
    """Of the leaf that the kernel is; None of a constant or a formula."""
    return _only(self.kernel)

  @property
  def bias_path(self) -> Path | None:
    return _only(self.bias) if self.bias else None

  def linear(self, kernel: Array, x: Array) -> Array:
    """The bilinear map without the bias.

    Args:
      kernel: in the shape of the leaf at `kernel_path`.
      x: with its batch axis.
    """
    path = self.kernel_path
    return self.product(self.kernel({path: kernel}) if path else kernel, x)

  def product(self, kernel: Array, x: Array) -> Array:
    """The map for a kernel in the layout that the network computes with."""
    raise NotImplementedError

  def __call__(self, leaves: Leaves, *inputs: Array) -> Array:
    y = self.product(self.kernel(leaves), *inputs)
    return y if self.bias is None else y + self.bias(leaves)


@frozen()
class Dense(Linear):
  """A matrix product with a parameter, `lax.dot_general`."""
  kind: ClassVar[str] = 'dense'
  dimension_numbers: Any  # of dot_general, the data on the left
  data_first: bool        # whether the network has the data on the left
  num_features: int       # axes of the kernel that the output keeps

  def product(self, kernel: Array, x: Array) -> Array:
    if self.data_first:
      return lax.dot_general(x, kernel, self.dimension_numbers)
    contract, batch = self.dimension_numbers
    return lax.dot_general(kernel, x, (contract[::-1], batch[::-1]))


@frozen()
class Conv(Linear):
  """A convolution with a parameter, `lax.conv_general_dilated`."""
  kind: ClassVar[str] = 'conv'
  window: tuple[int, ...]
  strides: tuple[int, ...]
  padding: tuple[tuple[int, int], ...]
  input_dilation: tuple[int, ...]
  dilation: tuple[int, ...]
  groups: int
  dimension_numbers: lax.ConvDimensionNumbers

  def product(self, kernel: Array, x: Array) -> Array:
    return lax.conv_general_dilated(
        x, kernel, self.strides, self.padding,
        lhs_dilation=self.input_dilation, rhs_dilation=self.dilation,
        dimension_numbers=self.dimension_numbers,
        feature_group_count=self.groups)


@frozen()
class Norm(Operation):
  """`(x - mean) / sqrt(var + eps) * scale + bias`.

  `form` tells whose mean and variance: 'fixed' (leaves `mean` and `var`, or
  none, where they are folded into scale and bias), 'batch', 'group' (and
  instance), 'layer'; 'rms' takes no mean off.
  """
  kind: ClassVar[str] = 'norm'
  form: str
  channel_axis: int
  axes: tuple[int, ...] = ()  # over which the data's moments are taken
  groups: int = 0
  eps: float = 0.0
  scale: Path | None = None
  bias: Path | None = None
  mean: Path | None = None
  var: Path | None = None

  @property
  def paths(self) -> tuple[Path, ...]:
    return tuple(p for p in (self.scale, self.bias, self.mean, self.var) if p)

  def __call__(self, leaves: Leaves, *inputs: Array) -> Array:
    x, = inputs
    read = functools.partial(self._read, leaves, x.ndim)
    if self.form == 'fixed':
      y = x - read(self.mean, 0.0)
      if self.var:
        y = y * lax.rsqrt(read(self.var, 1.0) + self.eps)
    else:
      y = whiten(x, self)
    return y * read(self.scale, 1.0) + read(self.bias, 0.0)

  def _read(self, leaves, ndim, path, default):
    """A leaf, ready to meet an array of `ndim` axes."""
    if path is None:
      return default
    return by_channel(leaves[path], ndim, self.channel_axis)


def by_channel(leaf: Array, ndim: int, axis: int) -> Array:
  """A vector along one of `ndim` axes; other leaves as they are."""
  if leaf.ndim != 1:
    return leaf
  shape = [1] * ndim
  shape[axis] = -1
  return leaf.reshape(shape)


def whiten(x: Array, norm: Norm) -> Array:
  """The array with mean 0 and variance 1 over a norm's axes."""
  shape = x.shape
  axes = norm.axes
  if norm.groups:
    c = norm.channel_axis
    x = x.reshape(*shape[:c], norm.groups, shape[c] // norm.groups,
                  *shape[c + 1:])
    axes = tuple(a + 1 if a >= c else a for a in axes)
  if norm.form != 'rms':
    x = x - jnp.mean(x, axes, keepdims=True)
  var = jnp.mean(jnp.square(x), axes, keepdims=True)
  return (x * lax.rsqrt(var + norm.eps)).reshape(shape)


@frozen()
class Activation(Operation):
  """A function of each number, by its name in `activations.TABLE`."""
  kind: ClassVar[str] = 'activation'
  name: str
  function: Callable[[Array], Array]
  slope: float | None = None  # of leaky_relu, where negative

  def __call__(self, leaves: Leaves, *inputs: Array) -> Array:
    return self.function(*inputs)


@frozen()
class Pool(Operation):
  """The max, mean or sum of windows; one entry an axis, batch included."""
  kind: ClassVar[str] = 'pool'
  reduction: str
  window: tuple[int, ...]
  strides: tuple[int, ...]
  padding: tuple[tuple[int, int], ...]

  def __call__(self, leaves: Leaves, *inputs: Array) -> Array:
    x, = inputs
    if self.reduction == 'max':
      return functools.reduce(self._max_along, range(x.ndim), x)
    total = lax.reduce_window(
        x, jnp.zeros((), x.dtype), lax.add, self.window, self.strides,
        self.padding)
    return total / (math.prod(self.window) if self.reduction == 'mean' else 1)

  def _max_along(self, x, axis):
    """By strided slices, whose second derivative is cheap."""
    taps, stride = self.window[axis], self.strides[axis]
    if taps == 1 and stride == 1:
      return x
    pads = [(0, 0, 0)] * x.ndim
    pads[axis] = (*self.padding[axis], 0)
    x = lax.pad(x, jnp.asarray(-jnp.inf, x.dtype), pads)
    size = (x.shape[axis] - taps) // stride + 1
    return functools.reduce(jnp.maximum, [
        lax.slice_in_dim(x, tap, tap + (size - 1) * stride + 1, stride, axis)
        for tap in range(taps)])


@frozen()
class Reduce(Operation):
  """The mean, sum or max over whole axes."""
  kind: ClassVar[str] = 'reduce'
  reduction: str
  axes: tuple[int, ...]
  keepdims: bool = False

  def __call__(self, leaves: Leaves, *inputs: Array) -> Array:
    function = {'mean': jnp.mean, 'sum': jnp.sum, 'max': jnp.max}
    return function[self.reduction](
        *inputs, axis=self.axes, keepdims=self.keepdims)


@frozen()
class Affine(Operation):
  """`x * scale + shift`, as steps with constants or parameters.

  A step is (primitive, whether the data stands first, operand).
  """
  kind: ClassVar[str] = 'affine'
  steps: tuple[tuple[str, bool, Program], ...]

  @property
  def paths(self) -> tuple[Path, ...]:
    return tuple(dict.fromkeys(p for *_, o in self.steps for p in o.paths))

  def scale_shift(self, leaves: Leaves) -> tuple[Array, Array]:
    """(scale, shift), ready to meet the data."""
    scale, shift = 1.0, 0.0
    for primitive, data_first, operand in self.steps:
      value = operand(leaves)
      if primitive == 'add':
        shift = shift + value
      elif primitive == 'sub':
        sign = 1 if data_first else -1
        scale, shift = sign * scale, sign * (shift - value)
      elif primitive == 'mul':
        scale, shift = scale * value, shift * value
      else:
        scale, shift = scale / value, shift / value
    return scale, shift

  def __call__(self, leaves: Leaves, *inputs: Array) -> Array:
    scale, shift = self.scale_shift(leaves)
    return inputs[0] * scale + shift


@frozen()
class Positions(Operation):
  """Learned numbers added to the data."""
  kind: ClassVar[str] = 'positions'
  shift: Program

  @property
  def paths(self) -> tuple[Path, ...]:
    return self.shift.paths

  def __call__(self, leaves: Leaves, *inputs: Array) -> Array:
    return inputs[0] + self.shift(leaves)


@frozen()
class Add(Operation):
  """The sum of two branches."""
  kind: ClassVar[str] = 'add'

  def __call__(self, leaves: Leaves, *inputs: Array) -> Array:
    return inputs[0] + inputs[1]


@frozen()
class Piece(Operation):
  """Equations of the network as they are."""
  program: Program

  @property
  def paths(self) -> tuple[Path, ...]:
    return self.program.paths

  def __call__(self, leaves: Leaves, *inputs: Array) -> Array:
    return self.program(leaves, *inputs)


@frozen()
class Move(Piece):
  """Moves numbers only: reshape, transpose, slice, pad."""
  kind: ClassVar[str] = 'move'

  @property
  def steps(self) -> tuple[str, ...]:
    return self.program.primitives


@frozen()
class Concat(Piece):
  """Branches side by side; parameters or constants may be among them."""
  kind: ClassVar[str] = 'concat'


@frozen()
class Attention(Piece):
  """The attention of queries, keys and values, its three inputs."""
  kind: ClassVar[str] = 'attention'


@frozen()
class Softmax(Piece):
  """Probabilities along one axis."""
  kind: ClassVar[str] = 'softmax'


@frozen()
class Recurrent(Piece):
  """A scan or a loop; its body's layers are not looked into."""
  kind: ClassVar[str] = 'recurrent'


@frozen()
class Opaque(Piece):
  """What is not understood."""
  primitive: str
  kind: ClassVar[str] = 'opaque'


def _only(program: Program) -> Path | None:
  """The leaf that a program shows in another shape, if it does only that."""
  views = {'reshape', 'transpose', 'squeeze', 'broadcast_in_dim', 'rev',
           'expand_dims', 'convert_element_type', 'copy', 'stop_gradient',
           'slice'}
  if len(program.leaves) == 1 and views.issuperset(program.primitives):
    return program.paths[0]
  return None
