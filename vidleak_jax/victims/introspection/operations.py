"""What one node of a layer graph does: typed options and the function itself.

Each operation is called as `operation(leaves, *inputs)` with the parameters by
path and the inputs with their batch axis. `paths` are the leaves it reads.
Axes count the batch axis, as in the network itself.
"""

import functools
import math
from typing import ClassVar

import jax.numpy as jnp
from jax import lax

from vidleak_jax.types import Array
from vidleak_jax.victims.introspection.layer_operations import (
    Activation,
    Conv,
    Dense,
    Input,
    Linear,
    Norm,
    Operation,
    by_channel,
    frozen,
    whiten,
)
from vidleak_jax.victims.introspection.tracing import Leaves, Path, Program

__all__ = [
    'Activation', 'Add', 'Affine', 'Attention', 'Concat', 'Conv', 'Dense',
    'Input', 'Linear', 'Move', 'Norm', 'Opaque', 'Operation', 'Piece', 'Pool',
    'Positions', 'Recurrent', 'Reduce', 'Softmax', 'by_channel', 'whiten']


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
