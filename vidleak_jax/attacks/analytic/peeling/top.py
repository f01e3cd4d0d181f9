"""Which units of the last block are on, from one kernel's gradient.

Under mean pooling dL/dout is the same at all positions, so column c of the last
kernel's gradient, divided by its slope, is the sum of the input patches at the
positions at which channel c is on: columns = patches^T masks, with masks
[positions, channels] binary. The row space of the columns is that of the masks,
and its binary vectors are found by trying all signs of a few channels.
"""

import itertools
import math
from collections.abc import Iterator

import numpy as np
from scipy import optimize
from scipy.linalg import qr

from vidleak_jax.attacks.analytic.peeling.geometry import Geometry
from vidleak_jax.types import UserError

MAX_POSITIONS = 16  # all 2^positions signs are tried
_RANK = 1e-4    # of singular values
_BINARY = 0.05  # how far from 0 or 1 a mask may come out
_FLAT = 1e-9    # of squared singular values: a channel that nothing moves


def masks_of(columns: np.ndarray, geometry: Geometry
             ) -> Iterator[np.ndarray]:
  """Yields masks [positions, channels] bool, the most likely order first.

  Positions that the kernel's zero padding does not tell apart come in every
  order; the equations of the layers below tell which is right.

  Args:
    columns: [taps, Cin, C] the kernel's gradient, each channel over its slope.
    geometry: of the convolution.

  Raises:
    UserError: the masks do not separate.
  """
  matrix = columns.reshape(-1, columns.shape[-1])
  rows = _binary_rows(matrix, geometry.num_out)
  patches = np.linalg.lstsq(rows.T, matrix.T, rcond=None)[0]
  power = np.sqrt((patches.reshape(
      len(rows), geometry.num_taps, -1) ** 2).mean(2))  # [P, taps]
  # cost[i, p]: what patch i would have outside of the clip at position p
  cost = power @ (~geometry.inside).T - power @ geometry.inside.T
  for order in _orders(cost, geometry.inside):
    yield rows[order] > 0


def _binary_rows(matrix, num_positions):
  """All rows [positions, C] of 0 and 1 in the matrix's row space."""
  if num_positions > MAX_POSITIONS:
    raise UserError(f'the last block has {num_positions} positions; up to '
                    f'{MAX_POSITIONS} can be told apart')
  scale = np.linalg.norm(matrix, axis=0)
  live = scale > 0
  values, vectors = np.linalg.eigh(matrix.T @ matrix)
  basis = vectors[:, -num_positions:].T  # [P, C]
  if values[-num_positions] < _RANK ** 2 * values[-1] or live.sum() < (
      2 * num_positions):
    raise UserError('two positions of the last block look alike, so its ReLUs '
                    'cannot be told apart')
  _, _, pivots = qr(basis, pivoting=True, mode='economic')
  pivots = pivots[:num_positions]
  signs = np.array(list(itertools.product((0.0, 1.0), repeat=num_positions)))
  found = []
  for part in np.array_split(signs, math.ceil(len(signs) / 4096)):
    rows = np.linalg.solve(basis[:, pivots].T, part.T).T @ basis
    off = np.abs(rows - np.round(rows)).max(1) + np.abs(np.round(rows) - (
        rows > 0.5)).max(1)
    found.extend(zip(off, rows))
  good = [row > 0.5 for off, row in found if off < _BINARY and row.max() > 0.5]
  if len(good) != num_positions:
    raise UserError(f'the ReLUs of the last block do not separate: '
                    f'{len(good)} binary rows for {num_positions} positions')
  return np.array(good, float)


def _orders(cost, inside):
  """Orders of the rows by position, all of the least cost."""
  rows, positions = optimize.linear_sum_assignment(cost)
  best = rows[np.argsort(positions)]
  alike = {}
  for position, taps in enumerate(inside):
    alike.setdefault(taps.tobytes(), []).append(position)
  for choice in itertools.product(*(
      itertools.permutations(group) for group in alike.values())):
    order = np.empty_like(best)
    for group, permuted in zip(alike.values(), choice):
      order[group] = best[list(permuted)]
    yield order
