"""What one kernel's gradient says of the last block: which units are on.

The gradient of a kernel, tap by tap, is

  K_t = (S_t X)^T dZ,

with X [positions, Cin] the convolution's input, dZ [positions, C] the cotangent
of its output and S_t the matrix that shifts positions by tap t. With bases of
both sides, X^T = Y E and dZ = R V, E and R unknown, the known numbers are

  H_t = Y^T K_t V^T = E S_t^T R.

The tap of the centre shifts nothing, so H_0 = E R. Row p of F = E^-1 obeys
f_p H_t H_0^-1 = f_q where tap t of output q sees input p, and 0 where none
does: a corner is the null vector of all taps that leave it, and the taps lead
from it everywhere. Linear algebra, however many positions there are. What no
tap tells apart, clips of a batch and frames that no kernel crosses, stays mixed
by a matrix of that size.

Under mean pooling dL/dz of channel c is the same number at all positions of a
clip where c is on. So a row of dZ, divided by its clip's slope, is 0 or 1,
which undoes the mixture. Norms of the data's own statistics take their means
off first. With the batch's statistics dZ sums to zero in every channel: R has a
column less, and f_p H_0 tells f_p but for a multiple of one row, which the
other taps tell.
"""

import itertools
import math
from collections.abc import Iterator

import numpy as np
from scipy import optimize
from scipy.linalg import qr

from vidleak_jax.attacks.analytic.peeling.geometry import Geometry
from vidleak_jax.attacks.analytic.peeling.units import Unit
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
  live = (slopes != 0).all(0)
  groups, _, dz = _factors(gradient, geometry)
  mixed = dz[..., live]  # [G, n, C]
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


def factors(gradient: np.ndarray, geometry: Geometry, centred: bool = False
            ) -> tuple[np.ndarray, np.ndarray]:
  """Returns (X [P, Cin], dZ [P, C]) of a kernel's gradient, but for a scalar.

  X is taken as the output of ReLUs, so the scalar is positive.

  Args:
    gradient: [taps, Cin, C] the kernel's.
    geometry: of the convolution; its taps must tell all positions apart.
    centred: whether dZ sums to zero in every channel.

  Raises:
    UserError: the positions cannot be told apart.
  """
  groups, x, dz = _factors(gradient, geometry, centred)
  if groups.shape[1] != 1:
    raise UserError("a norm of the data's own statistics needs taps that tell "
                    f'apart {groups.shape[1]} positions of the last block')
  order = np.argsort(groups[:, 0])
  sign = np.sign(x.sum())
  return x[order, 0] * sign, dz[order, 0] * sign


def rounded(masks: np.ndarray) -> np.ndarray:
  """Returns masks [P, C] bool from numbers that are 0 or 1.

  Raises:
    UserError: a tenth of them is neither.
  """
  if (np.abs(masks - (masks > 0.5)) > 5 * _BINARY).mean() > 0.1:
    raise UserError('the ReLUs of the last block do not separate')
  return masks > 0.5


def shortages(unit: Unit) -> list[str]:
  """Returns why a unit's positions cannot be told apart, by count."""
  reasons = []
  mixed, positions = max_mixed(unit.geometry), unit.geometry.num_out
  if mixed > MAX_MIXED:
    reasons.append(f'no tap of {unit.name} tells {mixed} positions apart, and '
                   f'up to {MAX_MIXED} can be separated')
  if positions > min(unit.width_in, unit.width):
    reasons.append(f'{unit.name} has {positions} positions, and the ReLUs of '
                   f'up to {min(unit.width_in, unit.width)} can be told apart')
  if _centre(unit.geometry) is None:
    reasons.append(f'{unit.name} has a stride or no centre, so its positions '
                   'cannot be told apart')
  return reasons


def max_mixed(geometry: Geometry) -> int:
  """Returns how many positions no tap tells apart."""
  return len(_corner(geometry)[0])


def _factors(gradient, geometry, centred=False):
  """(groups [G, n] of positions, X [G, n, Cin], dZ [G, n, C]).

  Each group's n rows of X and dZ are mixed, by one matrix and its inverse
  transposed that are the same for all groups.
  """
  size = geometry.num_out
  if size > min(gradient.shape[1:]):
    raise UserError(
        f'the last block has {size} positions and {min(gradient.shape[1:])} '
        'channels; more channels than positions are needed')
  if _centre(geometry) is None:
    raise UserError('the last convolution has a stride or no centre, so its '
                    'positions cannot be told apart')
  norms = np.sqrt((gradient ** 2).sum((0, 1)))
  norms = np.where(norms > 0, norms, 1.0)
  right = _basis(np.vstack(gradient / norms), size - centred)
  views = gradient / norms @ right  # [taps, Cin, N]
  left = _basis(np.hstack(views).T, size)
  seen = left.T @ views  # H
  groups, f = _spread(seen, geometry)
  x = (left @ np.linalg.inv(np.vstack(f))).T.reshape(*groups.shape, -1)
  return groups, x, f @ seen[_centre(geometry)] @ right.T * norms


def _basis(matrix, size):
  """[N, size] orthonormal, of the row space."""
  values, vectors = np.linalg.eigh(matrix.T @ matrix)
  if not values[-size] > _RANK ** 2 * values[-1]:
    raise UserError(_ALIKE)
  return vectors[:, -size:]


def _spread(seen, geometry):
  """(groups [G, n] of positions, rows of F [G, n, N])."""
  group, outside = _corner(geometry)
  stacked = np.hstack([np.zeros((seen.shape[1], 1)), *seen[outside]])
  first = tuple(group)
  f = {first: np.linalg.svd(stacked)[0][:, -len(group):].T}
  tables = [dict(zip(into, out)) for out, into in geometry.taps]
  centre = seen[_centre(geometry)]
  back = np.linalg.pinv(centre)
  open_rows = np.linalg.svd(centre)[0][:, centre.shape[1]:].T  # 1 if centred
  shown = {first: f[first] @ centre}  # rows of R
  pending = [first]
  while pending:
    here = pending.pop(0)
    for view, table in zip(seen, tables):
      there = tuple(table.get(position) for position in here)
      if None not in there and there not in f:
        shown[there] = f[here] @ view
        f[there] = shown[there] @ back
        if len(open_rows):
          f[there] += _along(open_rows, f[there], there, shown, seen, tables)
        pending.append(there)
  if len(f) * len(group) != geometry.num_out:
    raise UserError('the taps of the last convolution do not lead from one '
                    'position to all others')
  return np.array(list(f)), np.stack(list(f.values()))


def _along(open_row, f, there, shown, seen, tables):
  """What a row of F has along the row that the centre's tap does not see.

  The other taps tell: where they lead from here R is known, or zero.
  """
  left, right = [], []
  for view, table in zip(seen, tables):
    seen_by = table.get(there[0])
    if seen_by is None or (seen_by,) in shown:
      left.append(open_row @ view)
      right.append(shown.get((seen_by,), 0.0) - f @ view)
  left, right = np.hstack(left), np.hstack(right)
  return (left * right).sum() / (left ** 2).sum() * open_row


def _centre(geometry):
  """The tap that sees each position where it is, or None."""
  for tap, (out, into) in enumerate(geometry.taps):
    if np.array_equal(out, into) and len(out) == geometry.num_in:
      return tap
  return None


def _corner(geometry):
  """(the smallest group of inputs that the same taps miss, these taps)."""
  best, met = None, np.zeros((geometry.num_in, geometry.num_taps), bool)
  for tap, (_, into) in enumerate(geometry.taps):
    met[into, tap] = True
  for outside in np.unique(~met, axis=0):
    group = np.flatnonzero(~met[:, outside].any(1))
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
