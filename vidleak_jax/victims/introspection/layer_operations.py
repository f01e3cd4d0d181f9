"""Operations of a layer graph that have parameters, and activations.

See `operations`, under which all of them are found.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import lax

from vidleak_jax.models.layers import matmul_conv
from vidleak_jax.types import Array
from vidleak_jax.victims.introspection.tracing import Leaves, Path, Program

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
  lowering: str = 'lax'

  def product(self, kernel: Array, x: Array) -> Array:
    plain = self.groups == 1 and all(d == 1 for d in self.input_dilation)
    if self.lowering == 'matmul' and plain:
      return self._matmul(kernel, x)
    return lax.conv_general_dilated(
        x, kernel, self.strides, self.padding,
        lhs_dilation=self.input_dilation, rhs_dilation=self.dilation,
        dimension_numbers=self.dimension_numbers,
        feature_group_count=self.groups)

  def _matmul(self, kernel, x):
    """The same, channels last, by `layers.matmul_conv`."""
    data, weights, out = (
        (spec[0], *spec[2:], spec[1]) for spec in self.dimension_numbers)
    # (outputs, window, inputs) -> (window, inputs, outputs)
    weights = (*weights[1:], weights[0])
    y = matmul_conv(x.transpose(data), kernel.transpose(weights), self.strides,
                    self.padding, rhs_dilation=self.dilation)
    return y.transpose([out.index(axis) for axis in range(y.ndim)])


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
  constant: bool = False  # whether mean and var have no gradient

  @property
  def paths(self) -> tuple[Path, ...]:
    return tuple(p for p in (self.scale, self.bias, self.mean, self.var) if p)

  def __call__(self, leaves: Leaves, *inputs: Array) -> Array:
    x, = inputs
    read = functools.partial(self._read, leaves, x.ndim)
    if self.form == 'fixed':
      mean, var = read(self.mean, 0.0), read(self.var, 1.0)
      if self.constant:
        mean, var = lax.stop_gradient((mean, var))
      y = x - mean
      if self.var:
        y = y * lax.rsqrt(var + self.eps)
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


def _only(program: Program) -> Path | None:
  """The leaf that a program shows in another shape, if it does only that."""
  views = {'reshape', 'transpose', 'squeeze', 'broadcast_in_dim', 'rev',
           'expand_dims', 'convert_element_type', 'copy', 'stop_gradient',
           'slice'}
  if len(program.leaves) == 1 and views.issuperset(program.primitives):
    return program.paths[0]
  return None
