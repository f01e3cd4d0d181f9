"""A convolution and its norm: forwards, and what it makes of cotangents."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from vidleak_jax.attacks.analytic.peeling.geometry import Geometry
from vidleak_jax.victims.introspection import operations as ops
from vidleak_jax.victims.introspection.tracing import Path

Leaves = Mapping[tuple[str, ...], np.ndarray]  # float64


@dataclasses.dataclass(frozen=True, eq=False)
class Entry:
  """What stands before a pre-activation block: `relu(norm(x))`.

  Attributes:
    norm: of running statistics.
    relu: name of the node that answers.
  """
  norm: ops.Norm
  relu: str

  def affine(self, leaves: Leaves) -> tuple[np.ndarray, np.ndarray]:
    """Returns (scale, shift) of the norm, [C] each or a number."""
    return _fixed(self.norm, leaves, 1.0)

  def sums(self, update: Leaves) -> np.ndarray | None:
    """Returns dL/d of the norm summed over positions [C], or None."""
    path = self.norm.bias
    return None if path is None else np.asarray(update[path], np.float64)


class Moments(NamedTuple):
  """What a norm of the data's own statistics takes from its input z."""
  whitened: np.ndarray  # [P, C] (z - mean) / sigma
  mean: np.ndarray      # [P, C]
  sigma: np.ndarray     # [P, C]


@dataclasses.dataclass(frozen=True, eq=False)
class Unit:
  """A convolution and its norm, `y = norm(conv(x))`.

  A norm of running statistics is a scale and a shift. One of the data's own,
  `y = gamma (z - mean) / sigma + beta`, is one too once its `Moments` are
  known; its cotangent is

    dL/dz = (gamma dy - E[gamma dy] - whitened E[gamma dy whitened]) / sigma,

  E the mean over the numbers that share their statistics (1502.03167).

  Attributes:
    name: of the convolution.
    conv: the operation.
    norm: of running statistics or of groups', or None.
    geometry: of the convolution.
    width_in: channels of the input.
    width: channels of the output.
    source: name of the node that answers its input.
    output: name of the node that answers z.
  """
  name: str
  conv: ops.Conv
  norm: ops.Norm | None
  geometry: Geometry
  width_in: int
  width: int
  source: str
  output: str

  @property
  def num_rows(self) -> int:
    """Equations of the kernel's gradient for each channel of the input."""
    return self.geometry.num_taps * self.width

  def kernel(self, leaves: Leaves) -> np.ndarray:
    """Returns the kernel, or of an update its gradient, [taps, Cin, Cout]."""
    value = np.asarray(leaves[self.conv.kernel_path], np.float64)
    return value.reshape(-1, *value.shape[-2:])

  @property
  def is_affine(self) -> bool:
    """Whether what it computes does not depend on the data's statistics."""
    return self.norm is None or self.norm.form == 'fixed'

  @property
  def is_centred(self) -> bool:
    """Whether its cotangent sums to zero over positions in every channel."""
    return not self.is_affine and (
        self.norm.form == 'batch' or self.norm.groups == self.width)

  @property
  def sharing(self) -> np.ndarray:
    """[Cout, Cout] means over the channels that share their statistics."""
    groups = self.norm.groups or self.width
    size = self.width // groups
    return np.kron(np.eye(groups), np.full((size, size), 1 / size))

  def affine(self, leaves: Leaves, moments: Moments | None = None
             ) -> tuple[np.ndarray, np.ndarray]:
    """Returns (scale, shift), [Cout] each; [P, Cout] with moments."""
    width = leaves[self.conv.kernel_path].shape[-1]
    bias = (np.zeros(width) if self.conv.bias_path is None
            else leaves[self.conv.bias_path])
    if self.norm is None:
      return np.ones(width), bias
    if moments:
      scale = self.gamma(leaves) / moments.sigma
      shift = leaves[self.norm.bias] if self.norm.bias else 0.0
      return scale, shift - moments.mean * scale
    scale, shift = _fixed(self.norm, leaves, np.ones(width))
    return scale, bias * scale + shift

  def gamma(self, leaves: Leaves) -> np.ndarray:
    """Returns the norm's own scale, [Cout]."""
    if self.norm is None or self.norm.scale is None:
      return np.ones(self.width)
    return leaves[self.norm.scale]

  def moments(self, z: np.ndarray) -> Moments | None:
    """Returns those of the convolution's output [P, Cout]; None: not needed.

    A convolution's own bias is taken off again with the mean.
    """
    if self.is_affine:
      return None
    mean = self.shared_mean(z)
    sigma = np.sqrt(self.shared_mean((z - mean) ** 2) + self.norm.eps)
    return Moments((z - mean) / sigma, mean, sigma)

  def shared_mean(self, values: np.ndarray) -> np.ndarray:
    """Returns, for each of [P, Cout], the mean of those of its statistics."""
    norm, shape = self.norm, (*self.geometry.out_shape, self.width)
    axes = norm.axes
    if norm.groups:
      shape = (*shape[:-1], norm.groups, self.width // norm.groups)
      axes = tuple(a + 1 if a >= norm.channel_axis else a for a in axes)
    values = values.reshape(shape)
    mean = values.mean(axes, keepdims=True)
    return np.broadcast_to(mean, shape).reshape(-1, self.width)

  def cotangent(self, leaves: Leaves, dy: np.ndarray,
                moments: Moments | None = None) -> np.ndarray:
    """Returns dL/d of the convolution's output from dL/dy, [P, Cout]."""
    if self.is_affine:
      return dy * self.affine(leaves)[0]
    return (self.gamma(leaves) * dy
            - self._taken_off(leaves, dy, moments)) / moments.sigma

  def shown_slope(self, leaves: Leaves, update: Leaves, dz: np.ndarray,
                  moments: Moments | None = None) -> np.ndarray:
    """Returns dL/dy times the norm's scale as dL/dz [P, Cout] shows it.

    What a norm of the data's own statistics takes off are sums that the client
    has sent, as gradients of the norm's scale and bias.
    """
    if self.is_affine:
      return dz
    mean, slope = self.sent_means(leaves, update)
    return dz * moments.sigma + mean + moments.whitened * slope

  def sent_means(self, leaves: Leaves, update: Leaves
                 ) -> tuple[np.ndarray, np.ndarray]:
    """Returns E[gamma dy] and E[gamma dy whitened], [Cout] each.

    Both are sums that the client has sent, of a norm of one clip's statistics.
    """
    share = self.gamma(leaves) / self.geometry.num_out
    return (share * self.sums(update) @ self.sharing,
            share * update[self.norm.scale] @ self.sharing)

  def _taken_off(self, leaves, dy, moments):
    scaled = self.gamma(leaves) * dy
    return self.shared_mean(scaled) + moments.whitened * self.shared_mean(
        scaled * moments.whitened)

  def sums(self, update: Leaves) -> np.ndarray | None:
    """Returns dL/dz summed over positions [Cout], or None without a bias."""
    path = self.sums_path
    return None if path is None else np.asarray(update[path], np.float64)

  @property
  def sums_path(self) -> Path | None:
    """Of the bias whose gradient is that sum."""
    return self.norm.bias if self.norm else self.conv.bias_path


def _fixed(norm, leaves, ones):
  """(scale, shift) of a norm of running statistics; `ones`: of no scale."""
  scale = leaves[norm.scale] if norm.scale else ones
  if norm.var:
    scale = scale / np.sqrt(leaves[norm.var] + norm.eps)
  shift = leaves[norm.bias] if norm.bias else 0.0
  return scale, shift - scale * (leaves[norm.mean] if norm.mean else 0.0)
