"""Through a max pooling: which position of each window was the largest.

Behind a pooling the outputs m[w, o] of its windows and their cotangents v[w, o]
are known, but not which position of a window they belong to. The gradient of
the kernel before it,

  G[tap, c, o] = sum_p x[p + tap, c] dz[p, o],

is linear in x with known dz and in dz with known x, and either is determined
many times over; x also says z = norm(conv(x)), whose largest must be m. So x
and the positions are found in turns, from cotangents that are spread evenly
over each window. No guess of the clip is needed.
"""

import math

import numpy as np
from scipy import linalg

from vidleak_jax.attacks.analytic.peeling import equations
from vidleak_jax.attacks.analytic.peeling.geometry import Geometry
from vidleak_jax.attacks.analytic.peeling.readers import Known
from vidleak_jax.attacks.analytic.peeling.units import Leaves, Unit
from vidleak_jax.types import UserError
from vidleak_jax.victims.introspection import operations as ops

_LARGEST = 8192  # positions: matrices of their squares are factorised
_TIMES = 2       # equations of a kernel for each position; 1.1 are too few
_ROUNDS = 60
_RIDGE = 1e-7   # of the mean square, until positions are at rest,
_FALLS = 1e-2   # from there on, and so on
_LEAST_RIDGE = 1e-8
_ENDED = 1e-2   # relative misfit above which positions have not been found


def windows_of(pool: ops.Operation, geometry: Geometry, channel_axis: int = -1
               ) -> np.ndarray | None:
  """Returns the positions [W, k] that a max pooling's windows see.

  Padding is the number of positions. None where it is another pooling, or
  where windows overlap.

  Args:
    pool: the operation.
    geometry: of the convolution before it.
    channel_axis: of what is pooled; negative.
  """
  if not isinstance(pool, ops.Pool) or pool.reduction != 'max':
    return None
  size = len(pool.window)
  axes = [a for a in range(1, size) if a != size + channel_axis]
  if math.prod(pool.window) != math.prod(pool.window[a] for a in axes) or any(
      pool.window[a] > pool.strides[a] for a in axes):
    return None
  front = len(geometry.out_shape) - len(axes)

  def spatial(per_axis, ahead):
    return (ahead,) * front + tuple(per_axis[a] for a in axes)
  return Geometry(
      geometry.out_shape, spatial(pool.window, 1), spatial(pool.strides, 1),
      spatial(pool.padding, (0, 0)), (1,) * len(geometry.out_shape)).index


def suffices(unit: Unit) -> bool:
  """Whether a kernel has equations enough to find positions, by count."""
  positions = unit.geometry.num_in
  return positions <= _LARGEST and unit.num_rows >= _TIMES * positions


def cross(unit: Unit, windows: np.ndarray, known: Known, leaves: Leaves,
          update: Leaves, lowest: float = 0.0) -> np.ndarray:
  """Returns the cotangent [P, C] of a convolution below a pooling.

  Args:
    unit: the convolution and its norm of running statistics.
    windows: see `windows_of`.
    known: the pooling's output.
    leaves: the parameters by path, float64.
    update: one clip's gradient by path, float64.
    lowest: of the unit's inputs; 0 behind ReLUs.

  Raises:
    UserError: the positions are not found.
  """
  geometry, kernel = unit.geometry, unit.kernel(leaves)
  scale, shift = unit.affine(leaves)
  slope = known.cotangent * scale
  weight = equations.weights(slope)
  gradient, slope = unit.kernel(update) * weight, slope * weight
  size, value = np.abs(slope)[:, None], known.value[:, None]
  inside = np.broadcast_to(
      (windows < geometry.num_out)[..., None], (*windows.shape, unit.width))
  shares, best = inside / inside.sum(1, keepdims=True), None
  ridge, trust = _RIDGE, np.ones(unit.width)
  for _ in range(_ROUNDS):
    dz = _spread(windows, shares * slope[:, None], geometry.num_out)
    x = np.maximum(_solve(
        geometry.normal_matrix(dz * trust),
        geometry.pull_back(dz * trust ** 2, gradient), ridge), lowest)
    rest = gradient - geometry.kernel_gradient(x, dz)
    # One wrong position among few must not rule x.
    missed = np.sqrt((rest ** 2).sum((0, 1))) + 1e-300
    trust = np.minimum(1.0, np.median(missed[weight > 0]) / missed)
    asked = _gather(dz + _solve(
        geometry.patch_gram(x), geometry.forward(x, rest), ridge), windows)
    asked *= np.sign(slope)[:, None]
    z = _gather(geometry.forward(x, kernel) * scale + shift, windows)
    rests = np.where(inside, asked - size * shares, 0.0)
    variance = np.mean(rests ** 2, (0, 1))
    variance = np.maximum(variance, np.mean(variance))
    log = asked * size / variance - _unlike(z, value, inside)
    log = np.where(inside, log, -np.inf)
    last, best = best, log.argmax(1)
    if last is not None and (last == best)[known.on].all():
      if ridge < _LEAST_RIDGE:
        break
      ridge *= _FALLS
    shares = np.exp(log - log.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
  misfit = np.linalg.norm(rest) / np.linalg.norm(gradient)
  if not misfit < _ENDED:
    raise UserError(f'which outputs of {unit.name} the pooling let pass is not '
                    f'found: its gradient is missed by {misfit:.0e}')
  chosen = np.zeros(log.shape)
  np.put_along_axis(chosen, best[:, None], 1.0, 1)
  return _spread(windows, chosen * (known.cotangent * scale)[:, None],
                 geometry.num_out)


def _unlike(z, value, inside):
  """[W, k, C] how unlikely it is that each position has the value.

  The others are lower. How exact z is shows in the largest of each window.
  """
  z = np.where(inside, z, -np.inf)
  variance = np.mean((np.maximum(z.max(1), 0.0) - value[:, 0]) ** 2) + 1e-300
  apart = np.where(inside, z - value, 0.0) ** 2
  above = np.maximum(z - value, 0.0) ** 2
  return (apart - above + above.sum(1, keepdims=True)) / (2 * variance)


def _spread(windows, values, num_out):
  """[P, C] from [W, k, C]."""
  found = np.zeros((num_out + 1, values.shape[-1]))
  found[windows] = values
  return found[:-1]


def _gather(values, windows):
  """[W, k, C] from [P, C]; 0 is padding."""
  return np.pad(values, ((0, 1), (0, 0)))[windows]


def _solve(gram, right, ridge):
  gram[np.diag_indices_from(gram)] += ridge * np.trace(gram) / len(gram)
  factor = linalg.cho_factor(gram, overwrite_a=True, check_finite=False)
  return linalg.cho_solve(factor, right, check_finite=False)
