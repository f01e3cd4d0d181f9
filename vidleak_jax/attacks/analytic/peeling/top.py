"""Which units of the last block are on, from one kernel's gradient.

Under mean pooling dL/dz of channel c is the same number at every position of a
clip where c is on. The gradient of the last kernel, tap by tap, is

  K_t = (S_t X)^T dZ,

with X [positions, Cin] the convolution's input, dZ [positions, C] and S_t the
matrix that shifts positions by tap t. Of dZ only the row space is seen: with V
its basis, K_t V^T = (S_t X)^T R for an unknown R. The kernel sees one X at all
taps, so T_t = (K_0 V^T)^+ K_t V^T = A S_t^T A^-1 with A = R^-1, and column p of
A, a_p, obeys

  T_t a_p = a_q where tap t leads from p to q;  T_t a_p = 0 where it leads out.

A corner is the null vector of all taps that lead out there, and the taps lead
from it everywhere: A by linear algebra, however many positions there are. What
no tap tells apart, clips of a batch and frames that no kernel crosses, stays
mixed by a matrix of that size; it falls to the fact that a row of dZ, divided
by its clip's slope, is 0 or 1.
"""

import itertools
import math
from collections.abc import Iterator

import numpy as np
from scipy import optimize
from scipy.linalg import qr

from vidleak_jax.attacks.analytic.peeling.geometry import Geometry
from vidleak_jax.types import UserError

MAX_MIXED = 16  # positions that no tap tells apart: all 2^n signs are tried
_RANK = 1e-5    # of singular values
_BINARY = 0.05  # how far from 0 or 1 a mask may come out
_CLEAR = 1e-2   # of the largest slope of a channel, over the clips
_PROBED = 64    # columns that sort out most signs
_ALIKE = ('two positions of the last block look alike, so its ReLUs cannot be '
          'told apart')


def masks_of(gradient: np.ndarray, geometry: Geometry, slopes: np.ndarray,
             counts: np.ndarray | None = None) -> Iterator[np.ndarray]:
  """Yields masks [positions, C] bool in every order that the taps allow.

  Positions of one clip that no tap tells apart come in every order; the
  equations of the layers below tell which is right.

  Args:
    gradient: [taps, Cin, C] the kernel's.
    geometry: of the convolution; its first axis counts the clips.
    slopes: [B, C] dL/dz of each clip where a unit is on.
    counts: [C] at how many positions each channel is on, where that is known.

  Raises:
    UserError: the masks do not separate.
  """
  norms = np.sqrt((gradient ** 2).sum((0, 1)))
  live = (norms > 0) & (slopes != 0).all(0)
  basis, views = _row_space(gradient[..., live] / norms[live], geometry.num_out)
  groups, columns = _columns(views, geometry)
  mixed = np.linalg.solve(columns, basis) * norms[live]
  mixed = mixed.reshape(len(groups), groups.shape[1], -1)  # [G, n, C]
  per_clip = []
  share = groups.shape[1] // len(slopes)
  for slope in slopes[:, live]:
    # A channel that another clip rules has too much noise to be tested.
    clear = np.abs(slope) > _CLEAR * np.abs(slopes[:, live]).max(0)
    rows = _binary_rows(np.moveaxis(mixed / slope, 1, 0), clear)
    if len(rows) > share and counts is not None:
      rows = _adding_up(rows, counts[live], share)
    if len(rows) != share:
      raise UserError('the ReLUs of the last block do not separate: '
                      f'{len(rows)} binary rows for {share} positions')
    per_clip.append(rows)
  for orders in itertools.product(*map(itertools.permutations, per_clip)):
    masks = np.zeros((geometry.num_out, gradient.shape[-1]), bool)
    for member, rows in enumerate(itertools.chain(*orders)):
      masks[np.ix_(groups[:, member], live)] = rows
    yield masks


def max_mixed(geometry: Geometry) -> int:
  """Returns how many positions no tap tells apart."""
  return len(_corner(geometry)[0])


def _row_space(gradient, num_positions):
  """(V [N, C], K_t V^T [taps, Cin, N]): of dZ, and the views through it."""
  matrix = gradient.reshape(-1, gradient.shape[-1])
  if num_positions > min(gradient.shape[1:]):
    raise UserError(
        f'the last block has {num_positions} positions and '
        f'{min(gradient.shape[1:])} channels; more channels than positions are '
        'needed')
  values, vectors = np.linalg.eigh(matrix.T @ matrix)
  if values[-num_positions] < _RANK ** 2 * values[-1]:
    raise UserError(_ALIKE)
  basis = vectors[:, -num_positions:]
  return basis.T, gradient @ basis


def _columns(views, geometry):
  """(groups [G, n] of positions, A [N, N], the columns of group after group).

  Columns of a group's n positions are known up to one n x n matrix, the same
  for all groups.
  """
  centre = next((
      tap for tap, (out, into) in enumerate(geometry.taps)
      if np.array_equal(out, into) and len(out) == geometry.num_in), None)
  if centre is None:
    raise UserError('the last convolution has a stride or no centre, so its '
                    'positions cannot be told apart')
  moves = np.linalg.lstsq(
      views[centre], np.hstack(views), rcond=None)[0]
  size = geometry.num_out
  moves = moves.reshape(size, -1, size).swapaxes(0, 1)  # T_t
  group, outside = _corner(geometry)
  stacked = np.vstack([np.zeros((1, size)), *moves[outside]])
  found = {tuple(group): np.linalg.svd(stacked)[2][-len(group):].T}
  tables = [dict(zip(*tap)) for tap in geometry.taps]
  pending = [tuple(group)]
  while pending:
    here = pending.pop(0)
    for move, table in zip(moves, tables):
      there = tuple(table.get(position) for position in here)
      if None not in there and there not in found:
        found[there] = move @ found[here]
        pending.append(there)
  if len(found) * len(group) != size:
    raise UserError('the taps of the last convolution do not lead from one '
                    'position to all others')
  return np.array(list(found)), np.hstack(list(found.values()))


def _corner(geometry):
  """(the smallest group of positions that the same taps leave, these taps)."""
  best = None
  for outside in np.unique(~geometry.inside, axis=0):
    group = np.flatnonzero(~geometry.inside[:, outside].any(1))
    if best is None or len(group) < len(best[0]):
      best = group, outside
  return best


def _binary_rows(mixed, clear):
  """All rows [R, G, C] of 0 and 1 in the span of mixed [n, G, C].

  Besides the masks these are sums of masks that have no channel in common, and
  other chance combinations, where channels are few.
  """
  size = len(mixed)
  if size > MAX_MIXED:
    raise UserError(f'no tap tells {size} positions of the last block apart; '
                    f'up to {MAX_MIXED} can be separated')
  left, values, basis = np.linalg.svd(
      mixed[..., clear].reshape(size, -1), full_matrices=False)
  if values[-1] < _RANK * values[0]:
    raise UserError(_ALIKE)
  pivots = qr(basis, pivoting=True, mode='economic')[2]
  probed = basis[:, pivots[:max(_PROBED, 2 * size)]]
  signs = np.array(list(itertools.product((0.0, 1.0), repeat=size))[1:])
  weights = np.linalg.solve(basis[:, pivots[:size]].T, signs.T).T
  good = np.vstack([
      part[_is_binary(part @ probed)]
      for part in np.array_split(weights, math.ceil(len(signs) / 4096))])
  good = good[_is_binary(good @ basis)]
  return np.einsum('rn,ngc->rgc', good / values @ left.T, mixed) > 0.5


def _is_binary(rows):
  return np.minimum(np.abs(rows), np.abs(rows - 1)).max(1) < _BINARY


def _adding_up(rows, counts, share):
  """The rows that together are on as often as each channel is."""
  total = rows.sum(1).T
  found = optimize.milp(
      np.zeros(len(rows)), integrality=np.ones(len(rows)),
      bounds=optimize.Bounds(0, 1),
      constraints=[
          optimize.LinearConstraint(total, counts - 0.5, counts + 0.5),
          optimize.LinearConstraint(np.ones(len(rows)), share, share)])
  return rows[found.x > 0.5] if found.success else rows
