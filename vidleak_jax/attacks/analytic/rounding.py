"""Video has 256 levels a colour: near enough, a recovery is exact.

Cameras, files and resizing hand out frames of 8 bits, so a clip's pixels are
k / 255. Whether this one's are shows in the recovery itself: its distances to
the nearest level are then far smaller than chance allows.
"""

from typing import NamedTuple

import numpy as np

TOP = 255       # the highest level
_CLOSE = 0.2    # rms distance in levels; numbers between levels have 0.29
_SURE = 0.25    # standard error, in levels, of what may be rounded
_FEWEST = 64    # numbers strictly inside the range, to judge by
_VARIED = 16    # levels among them: a flat picture may be near one by chance


class Rounded(NamedTuple):
  """Clips, and what rounding did to them."""
  clips: np.ndarray     # [M, ...] as they came, or on levels
  on_levels: np.ndarray  # [M] bool
  moved: np.ndarray      # [M] rms distance to the levels, of 1 in [0, 1]


def to_levels(clips: np.ndarray) -> Rounded:
  """Rounds each message's clips [M, ...] in [0, 1] where they have levels."""
  scaled = TOP * np.clip(np.asarray(clips, np.float64), 0, 1)
  whole = np.rint(scaled)
  judged = [has_levels(message) for message in scaled]
  moved = np.sqrt(np.mean((scaled - whole).reshape(len(scaled), -1) ** 2, 1))
  keep = np.reshape(judged, (-1, *[1] * (scaled.ndim - 1)))
  return Rounded(np.where(keep, whole / TOP, clips), np.array(judged),
                 moved / TOP)


def has_levels(scaled: np.ndarray) -> bool:
  """Whether numbers in [0, 255] are whole but for small errors."""
  inside = scaled[(scaled > 0.5) & (scaled < TOP - 0.5)]
  whole = np.rint(inside)
  return (inside.size >= _FEWEST and np.unique(whole).size >= _VARIED
          and np.sqrt(np.mean((inside - whole) ** 2)) < _CLOSE)


def decode(scaled: np.ndarray, covariance: np.ndarray) -> np.ndarray | None:
  """Whole levels from an estimate whose errors hang together.

  The surest row is rounded first; what that moved it by corrects the others,
  whose errors shrink. So an error of several levels in a few directions is
  found out, where rounding all at once would fail (Babai's nearest plane, 1986,
  in the order of V-BLAST).

  Args:
    scaled: [N, P] estimates in levels.
    covariance: [N, N] of the errors of each column, in levels squared.

  Returns:
    [N, P] whole numbers, or None where the rows that are sure from the start
    have no levels, or not all rows become sure.
  """
  scaled, covariance = scaled.copy(), covariance.copy()
  sure = np.diag(covariance) < _SURE ** 2
  if not has_levels(scaled[sure]):
    return None
  left = np.ones(len(scaled), bool)
  while left.any():
    at = np.argmin(np.where(left, np.diag(covariance), np.inf))
    variance = covariance[at, at]
    if variance > _SURE ** 2:
      return None
    move = np.clip(np.rint(scaled[at]), 0, TOP) - scaled[at]
    share = np.where(left, covariance[at], 0) / max(variance, 1e-300)
    scaled += share[:, None] * move
    covariance -= np.outer(share, covariance[at])
    left[at] = False
  return np.rint(scaled)
