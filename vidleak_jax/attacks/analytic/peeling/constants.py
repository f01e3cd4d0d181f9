"""Constants that norms of the batch's statistics hide.

There every channel's cotangent sums to zero over the positions. So where each
tap that meets an input meets one at every output, as the even inputs of a
stride of 2, a constant added to all that these taps meet changes neither the
kernel's gradient nor what the norm answers. Inputs are outputs of ReLUs: where
one of them is off the lowest is zero. Where none is, the constant stays open,
and matters to no layer that reads them.
"""

from collections.abc import Sequence

import numpy as np

from vidleak_jax.attacks.analytic.peeling.geometry import Geometry

_ALIKE = 1e-5, 1e-2  # of the largest input: so near to the lowest, at least
_SIGMAS = 5.0        # and at most, or so many errors, is the same


def hidden(geometries: Sequence[Geometry]) -> list[np.ndarray]:
  """Returns the groups of inputs [n], each open but for its constant.

  Args:
    geometries: of the convolutions that read the input.
  """
  taps = [(len(out) == geometry.num_out, into)
          for geometry in geometries for out, into in geometry.taps]
  groups = np.arange(geometries[0].num_in)
  reached, shown = (np.zeros(len(groups), bool) for _ in range(2))
  for everywhere, into in taps:
    reached[into] = True
    if not everywhere:
      shown[into] = True  # zeros beside it show the constant
      continue
    for group in np.unique(groups[into]):
      groups[groups == group] = groups[into[0]]
  return [np.flatnonzero(groups == group) for group in np.unique(groups)
          if (reached & ~shown)[groups == group].all()]


def directions(groups: Sequence[np.ndarray], size: int) -> np.ndarray:
  """Returns what is hidden as orthonormal columns [size, len(groups)]."""
  basis = np.zeros((size, len(groups)))
  for column, group in zip(basis.T, groups):
    column[group] = len(group) ** -0.5
  return basis


def at_zero(x: np.ndarray, sigma: np.ndarray, groups: Sequence[np.ndarray]
            ) -> tuple[np.ndarray, np.ndarray]:
  """Returns inputs whose lowest ones are zero, and where that is certain.

  Args:
    x: [P, C] with any constants.
    sigma: [P, C] standard deviation of its error.
    groups: of `hidden`.

  Returns:
    ([P, C], [C] bool: two inputs of each group or more are the lowest).
  """
  x, certain, largest = x.copy(), np.ones(x.shape[1], bool), np.abs(x).max()
  for group in groups:
    part = x[group] - x[group].min(0)
    lowest = part <= np.clip(_SIGMAS * sigma[group], *(
        share * largest for share in _ALIKE))
    x[group] = part - (part * lowest).sum(0) / lowest.sum(0)
    certain &= lowest.sum(0) > 1
  return x, certain


def open_values(on: np.ndarray, groups: Sequence[np.ndarray]) -> np.ndarray:
  """Returns where values are open, [P, C]: no ReLU of the group is off."""
  found = np.zeros(on.shape, bool)
  for group in groups:
    found[group] = on[group].all(0)
  return found
