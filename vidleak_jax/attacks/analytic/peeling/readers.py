"""What is known behind the units that read an unknown input.

Of a ReLU's output, and what that makes of the unit before it: equations of its
kernel's gradient, of its outputs, the moments of its norm.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vidleak_jax.attacks.analytic.peeling import constants
from vidleak_jax.attacks.analytic.peeling.equations import Outputs, Source
from vidleak_jax.attacks.analytic.peeling.units import Leaves, Moments, Unit


class Known(NamedTuple):
  """What is known of the output of a ReLU; float64, flat over positions.

  Or of a sum in a pre-activation network, which a ReLU and a shortcut read.
  """
  value: np.ndarray | None  # [P, C], 0 where off; None above the last block
  sigma: np.ndarray | None  # [P, C] standard deviation of its error
  slope: np.ndarray         # [P, C] dL/d of it; of a sum, through the ReLU
  on: np.ndarray            # [P, C] bool
  past: np.ndarray | None = None  # [P, C] of a sum: dL/d past the ReLU
  seen: np.ndarray | None = None  # [P, C] bool: is the value known; None: `on`

  @property
  def cotangent(self) -> np.ndarray:
    """dL/d of what the ReLU sees, but for its norm; of a sum, of all."""
    cotangent = self.slope * self.on
    return cotangent if self.past is None else cotangent + self.past

  @property
  def certain(self) -> np.ndarray:
    """[P, C] where the value is what the units before put out."""
    return self.on if self.seen is None else self.seen


class Reader(NamedTuple):
  """A unit that reads an unknown input."""
  unit: Unit
  known: Known   # the ReLU behind it
  forward: bool  # whether the values there are its outputs


def branch(last: Unit, inner: Known, leaves: Leaves) -> np.ndarray:
  """Returns what a block's main branch answers, [P, C]."""
  z = last.geometry.forward(inner.value, last.kernel(leaves))
  scale, shift = last.affine(leaves, last.moments(z))
  return z * scale + shift


def hidden_from(readers: list[Reader]) -> list[np.ndarray]:
  """Returns the groups of inputs whose constant no reader sees."""
  if not all(reader.unit.is_centred for reader in readers):
    return []
  return constants.hidden([reader.unit.geometry for reader in readers])


def first_moments(reader: Reader, leaves: Leaves) -> Moments | None:
  """Where a ReLU is on its value tells them, but for their scale."""
  unit, known = reader.unit, reader.known
  if unit.is_affine:
    return None
  shape = known.slope.shape
  whitened = np.zeros(shape)
  if reader.forward:
    gamma = unit.gamma(leaves)
    shift = leaves[unit.norm.bias] if unit.norm.bias else 0.0
    whitened = np.where(known.certain, (known.value - shift) / np.where(
        gamma == 0, np.inf, gamma), 0.0)
  return Moments(whitened, np.zeros(shape), np.ones(shape))


def moments(readers: Sequence[Reader], x: np.ndarray, leaves: Leaves
            ) -> list[Moments | None]:
  """Returns those of each reader's norm for an input [Pin, Cin]."""
  return [reader.unit.moments(reader.unit.geometry.forward(
      np.maximum(x, 0.0), reader.unit.kernel(leaves))) for reader in readers]


def source(reader: Reader, moments: Moments | None, leaves: Leaves,
           update: Leaves) -> Source:
  """Returns a kernel gradient's equations, from the ReLU behind the unit."""
  unit, known = reader.unit, reader.known
  return Source(
      unit.geometry,
      unit.cotangent(leaves, known.cotangent, moments),
      unit.kernel(update))


def slope_of(readers: Sequence[Reader], sources: Sequence[Source],
             leaves: Leaves) -> np.ndarray:
  """Returns dL/d of the input through the readers, [Pin, Cin]."""
  return sum(each.geometry.pull_back(each.dz, reader.unit.kernel(leaves))
             for each, reader in zip(sources, readers))


def pulled(reader: Reader, leaves: Leaves) -> np.ndarray:
  """Returns dL/d of a unit's input through it, [Pin, Cin]; no data's norms."""
  unit, known = reader.unit, reader.known
  return unit.geometry.pull_back(
      unit.cotangent(leaves, known.slope * known.on, None),
      unit.kernel(leaves))


def active_outputs(reader: Reader, moments: Moments | None, leaves: Leaves
                   ) -> Outputs:
  """The outputs of a unit where the ReLU behind it is on."""
  unit, known = reader.unit, reader.known
  kernel, (scale, shift) = unit.kernel(leaves), unit.affine(leaves, moments)
  # Errors of neighbours are alike; one small estimate must not rule.
  sigma = np.sqrt(np.mean(known.sigma ** 2))
  return Outputs(
      lambda x: unit.geometry.forward(x, kernel) * scale,
      lambda y: unit.geometry.pull_back(y * scale, kernel),
      known.value - shift, known.certain / max(sigma, 1e-300))
