"""Which ReLUs are on, when their outputs are known up to float32's rounding.

A few of 100 000 units are so near zero that rounding hides their sign, and one
wrong sign spoils every block below. What settles them: the gradient of the
norm's bias is exactly the sum of dL/da over the units of a channel that are on.
"""

from typing import NamedTuple

import numpy as np

_THRESHOLD = 6e-6  # of the largest output, below which a unit counts as off
_SIGMAS = 5.0      # of an output's error, below which it counts as off
_TOLERANCE = 2e-6  # of the sums, relative to a channel's largest term
_ERRORS = 4.0      # of a cotangent, within which a sum holds
_SURELY_ON = 4.6   # log of an output over the threshold
_CLEAR = 20.0     # noise of a channel within a cotangent that can be told
_CANDIDATES = 40   # units of a channel, the nearest to the threshold


class Active(NamedTuple):
  """The units that are on, and how sure that is."""
  on: np.ndarray  # [P, C] bool
  num_toggled: int   # units that the sums settled
  num_doubtful: int  # channels whose sum no toggle explains


def active(a: np.ndarray, sigma: np.ndarray, da: np.ndarray,
           sums: np.ndarray | None, error: float = 0.0) -> Active:
  """Returns which ReLUs are on.

  Args:
    a: [P, C] their outputs, with errors; where off, anything near 0.
    sigma: [P, C] standard deviations of the errors.
    da: [P, C] dL/da.
    sums: [C] dL/da summed over the units that are on; None: not known.
    error: of `da`, relative.
  """
  threshold = np.maximum(_SIGMAS * sigma, _THRESHOLD * a.max())
  on = a > threshold
  if sums is None:
    return Active(on, 0, 0)
  toggled = doubtful = 0
  rests = sums - (da * on).sum(0)
  limits = max(_TOLERANCE, _ERRORS * error) * np.abs(da).max(0) * np.sqrt(
      on.sum(0) + 1.0)
  for c in np.flatnonzero(np.abs(rests) > limits):
    above = np.log(np.maximum(a[:, c], 1e-3 * threshold[:, c])
                   / threshold[:, c])
    near = np.argsort(np.abs(above))[:_CANDIDATES]
    near = near[above[near] < _SURELY_ON]
    chosen = _explain(np.where(on[near, c], -1, 1) * da[near, c],
                      rests[c], limits[c])
    on[near[chosen], c] ^= True
    toggled += len(chosen)
    doubtful += not chosen
  return Active(on, toggled, doubtful)


def _explain(gains, rest, limit) -> list[int]:
  """The one or two gains that make up for the rest, or none."""
  if not len(gains):
    return []
  single = np.abs(gains - rest)
  if single.min() <= limit:
    return [int(single.argmin())]
  pairs = np.abs(gains[:, None] + gains - rest)
  np.fill_diagonal(pairs, np.inf)
  if pairs.min() <= limit:
    return list(map(int, np.unravel_index(pairs.argmin(), pairs.shape)))
  return []


def repaired(on: np.ndarray, dz: np.ndarray, shown: np.ndarray) -> np.ndarray:
  """Returns which ReLUs are on, [P, C], where a kernel's gradient shows it.

  Args:
    on: [P, C] as they were taken to be.
    dz: [P, C] cotangent that each would have if it were on.
    shown: [P, C] cotangent that the kernel's gradient shows.
  """
  error = np.abs(shown - dz * on)
  noise = np.median(error, axis=0) + 1e-12 * np.abs(dz).max()
  # Off and on must be told apart by far, and the other one must fit.
  other = np.abs(shown - dz * ~on)
  wrong = (error > 0.5 * np.abs(dz)) & (other < 0.25 * np.abs(dz)) & (
      np.abs(dz) > _CLEAR * noise)
  return on ^ wrong
