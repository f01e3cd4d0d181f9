"""A convolution as index tables, in float64 NumPy.

XLA has no fast float64 convolution on a CPU; a gather and one matrix product
are. Arrays are flat over positions: inputs x [Pin, Cin], cotangents
dz [Pout, Cout], kernels [taps, Cin, Cout].
"""

import collections
import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Geometry:
  """Where the taps of a convolution fall.

  Attributes:
    in_shape: spatial shape of the input.
    window: taps per spatial axis.
    strides: per spatial axis.
    padding: (low, high) zeros per spatial axis.
    dilation: spacing of the taps per spatial axis.
  """
  in_shape: tuple[int, ...]
  window: tuple[int, ...]
  strides: tuple[int, ...]
  padding: tuple[tuple[int, int], ...]
  dilation: tuple[int, ...]

  @functools.cached_property
  def out_shape(self) -> tuple[int, ...]:
    """Spatial shape of the output."""
    return tuple(
        (size + low + high - (k - 1) * d - 1) // s + 1
        for size, k, s, (low, high), d in zip(
            self.in_shape, self.window, self.strides, self.padding,
            self.dilation))

  @functools.cached_property
  def taps(self) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """For each tap, the outputs [n] that see an input there, and which [n]."""
    out = np.indices(self.out_shape).reshape(len(self.out_shape), -1).T
    low = np.array([pad[0] for pad in self.padding])
    tables = []
    for tap in np.ndindex(*self.window):
      seen = out * self.strides + np.array(tap) * self.dilation - low
      inside = ((seen >= 0) & (seen < self.in_shape)).all(1)
      flat = np.ravel_multi_index(tuple(seen[inside].T), self.in_shape)
      tables.append((np.flatnonzero(inside), flat))
    return tuple(tables)

  @functools.cached_property
  def inside(self) -> np.ndarray:
    """[Pout, taps] whether an output's tap meets an input, not padding."""
    found = np.zeros((self.num_out, len(self.taps)), bool)
    for tap, (out, _) in enumerate(self.taps):
      found[out, tap] = True
    return found

  @functools.cached_property
  def index(self) -> np.ndarray:
    """[Pout, taps] which input an output's tap meets; `num_in`: padding."""
    found = np.full((self.num_out, self.num_taps), self.num_in)
    for tap, (out, into) in enumerate(self.taps):
      found[out, tap] = into
    return found

  @property
  def num_in(self) -> int:
    """Positions of the input."""
    return math.prod(self.in_shape)

  @property
  def num_out(self) -> int:
    """Positions of the output."""
    return math.prod(self.out_shape)

  @property
  def num_taps(self) -> int:
    return math.prod(self.window)

  def patches(self, x: np.ndarray) -> np.ndarray:
    """Returns the inputs that each output sees, [Pout, taps, Cin]."""
    seen = np.zeros((self.num_out, self.num_taps, x.shape[-1]))
    for tap, (out, into) in enumerate(self.taps):
      seen[out, tap] = x[into]
    return seen

  def forward(self, x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Returns the convolution, [Pout, Cout]."""
    return (self.patches(x).reshape(self.num_out, -1)
            @ kernel.reshape(-1, kernel.shape[-1]))

  def pull_back(self, dz: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Returns the transpose of `forward` in x, [Pin, Cin]."""
    flat = dz @ kernel.reshape(-1, kernel.shape[-1]).T
    parts = flat.reshape(len(dz), *kernel.shape[:2])
    x = np.zeros((self.num_in, kernel.shape[1]))
    for tap, (out, into) in enumerate(self.taps):
      x[into] += parts[out, tap]
    return x

  def kernel_gradient(self, x: np.ndarray, dz: np.ndarray) -> np.ndarray:
    """Returns the transpose of `forward` in the kernel, [taps, Cin, Cout]."""
    seen = self.patches(x)
    flat = seen.reshape(self.num_out, -1).T @ dz
    return flat.reshape(*seen.shape[1:], -1)

  def matrix(self, dz: np.ndarray) -> np.ndarray:
    """Returns M [taps * Cout, Pin] of x -> `kernel_gradient(x, dz)`.

    It is the same for all input channels.
    """
    matrix = np.zeros((self.num_taps, dz.shape[-1], self.num_in))
    for rows, (out, into) in zip(matrix, self.taps):
      rows[:, into] = dz[out].T
    return matrix.reshape(-1, self.num_in)

  def normal_matrix(self, dz: np.ndarray) -> np.ndarray:
    """Returns M^T M [Pin, Pin] of `matrix`, without M.

    Only the Gram matrix of dz between positions enters.
    """
    gram, normal = dz @ dz.T, np.zeros((self.num_in,) * 2)
    for out, into in self.taps:
      normal[np.ix_(into, into)] += gram[np.ix_(out, out)]
    return normal

  def patch_gram(self, x: np.ndarray) -> np.ndarray:
    """Returns the inner products [Pout, Pout] of the `patches` of x."""
    inner, gram = x @ x.T, np.zeros((self.num_out,) * 2)
    for out, into in self.taps:
      gram[np.ix_(out, out)] += inner[np.ix_(into, into)]
    return gram


def rank_bound(convolutions: Sequence[tuple[Geometry, int]]) -> int:
  """Returns what the rank of x -> kernel gradients is at most, a channel.

  Positions that the same taps reach share these taps' rows, one for each output
  channel; a stride leaves some positions to few taps.

  Args:
    convolutions: (geometry, output channels) of those that read one input.
  """
  reached: list[list[tuple[int, int]]] = [
      [] for _ in range(convolutions[0][0].num_in)]
  rows = {}
  for i, (geometry, width) in enumerate(convolutions):
    for tap, (_, into) in enumerate(geometry.taps):
      rows[i, tap] = width
      for position in into:
        reached[position].append((i, tap))
  groups = collections.Counter(map(tuple, reached))
  return min(sum(rows.values()), sum(
      min(count, sum(rows[tap] for tap in taps))
      for taps, count in groups.items()))
