"""Gauss-Newton on pixels: second-order matching of whatever is known.

Each step solves `min |r + J d|^2 + damping |d|^2` by conjugate gradients, with
J d and J^T r by forward and reverse differentiation: no Jacobian is stored. The
steps may run in float32; residuals keep the caller's precision, so the end is
as exact as they are (iterative refinement).
"""

import dataclasses
import functools
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.scipy.sparse.linalg
import numpy as np

from vidleak_jax.runtime import programs
from vidleak_jax.types import Array

Residual = Callable[[Array, Any], Any]  # (pixels, data) -> pytree of rows

_START = 0.1         # damping of each grid's first step
_LESS, _MORE = 0.3, 10.0  # factors of the damping after a good, a bad step
_SHORTEST = 1e-2     # of a step, before it is given up
_STALLED = 0.98      # of the last cost: no more progress on this grid
_SLOW = 0.1          # of the last cost: the step was not solved well enough
_SOLVED = 1e-5       # of a step's residual, relative
_GROWTH = 1.5        # of the conjugate gradients after a slow step


class Progress(NamedTuple):
  """Where the search is after a step."""
  grid: tuple[int, ...]
  step: int
  cost: float  # sum of squares of the residual


@dataclasses.dataclass(frozen=True)
class Options:
  """How hard to search.

  Attributes:
    steps: on each grid, the coarsest first; the last grid is the pixels'.
    inner_steps: conjugate gradients in each step; after a slow step on the
      last grid more.
    most_inner_steps: up to which they grow.
    box: allowed pixels.
    fast: whether steps are computed in float32.
    enough: cost at which it stops.
  """
  steps: tuple[int, ...] = (2, 2, 3, 16)
  inner_steps: int = 60
  most_inner_steps: int = 400
  box: tuple[float, float] = (0.0, 1.0)
  fast: bool = True
  enough: float = 0.0


class Result(NamedTuple):
  """What the search ended with."""
  pixels: np.ndarray
  cost: float
  num_steps: int  # that lowered the cost


def minimize(
    residual: Residual, data: Any, start: np.ndarray,
    options: Options | None = None,
    tell: Callable[[Progress], None] | None = None, *,
    key: Hashable | None = None,
) -> Result:
  """Returns pixels that make the residual small, from coarse to fine.

  A start far from the answer ends in a local minimum if all pixels move at
  once, so the first steps move a coarse grid that is enlarged.

  Args:
    residual: (pixels [..., T, H, W, C], data) -> pytree of arrays.
    data: its constants, a pytree; arguments of the compiled programs.
    start: [..., T, H, W, C]; its precision is that of the result.
    options: how hard to search; None: the defaults.
    tell: called after each step.
    key: what `residual` depends on besides its arguments: searches of equal
      keys share their compiled programs. None: the function stands for it.
  """
  options = options or Options()
  pixels = jnp.asarray(start)
  measure, move = programs.default().get(
      ('gauss_newton', options.fast, residual if key is None else key),
      lambda: (jax.jit(functools.partial(_cost, residual)),
               jax.jit(functools.partial(_move, residual, options.fast))))
  best, taken = float(measure(pixels, data)), 0
  light = to_float32(data) if options.fast else data
  for grid, steps in zip(grids(pixels.shape, len(options.steps)),
                         options.steps):
    axes = tuple(map(_enlarge, grid[-4:-1], pixels.shape[-4:-1]))
    damping, inner_steps = _START, options.inner_steps
    for step in range(steps):
      if best <= options.enough:
        break
      change, length = move(
          pixels, data, light, axes, damping, inner_steps), 1.0
      while length > _SHORTEST:
        trial = jnp.clip(pixels + length * change, *options.box)
        if (cost := float(measure(trial, data))) < best:
          break
        length /= 2
      else:
        damping *= _MORE
        continue
      pixels, last, best, taken = trial, best, cost, taken + 1
      # A step that had to be shortened went beyond where the model holds.
      damping *= _LESS if length == 1.0 else _MORE
      if grid == pixels.shape and best > _SLOW * last:
        inner_steps = min(int(inner_steps * _GROWTH), options.most_inner_steps)
      if tell:
        tell(Progress(grid, step, best))
      if length == 1.0 and best > _STALLED * last:
        break
  return Result(np.asarray(pixels), best, taken)


def grids(shape: tuple[int, ...], count: int) -> list[tuple[int, ...]]:
  """Returns `count` shapes [..., T, H, W, C], each finer, the last `shape`.

  >>> grids((8, 32, 32, 3), 4)
  [(4, 4, 4, 3), (4, 8, 8, 3), (8, 16, 16, 3), (8, 32, 32, 3)]
  """
  *lead, frames, height, width, colours = shape
  shapes = []
  for level in range(count - 1, -1, -1):
    shapes.append((*lead, max(1, frames // (2 if level > 1 else 1)),
                  max(1, height >> level), max(1, width >> level), colours))
  return shapes


def _cost(residual, pixels, data):
  return sum(jnp.sum(r ** 2) for r in jax.tree.leaves(residual(pixels, data)))


def _enlarge(size, full):
  """[full, full] linear interpolation of the first `size` numbers."""
  matrix = np.zeros((full, full))
  matrix[:, :size] = jax.image.resize(
      np.eye(size), (full, size), 'linear') if size < full else np.eye(full)
  return matrix


def _move(residual, fast, pixels, data, light, axes, damping, inner_steps):
  """The step, [..., T, H, W, C]."""
  dtype, now = pixels.dtype, residual(pixels, data)
  if fast:
    now, pixels = to_float32(now), pixels.astype(jnp.float32)
  damping = jnp.asarray(damping, pixels.dtype)
  frames, rows, columns = (jnp.asarray(a, pixels.dtype) for a in axes)

  def lift(z):
    return jnp.einsum('...thwc,at,bh,dw->...abdc', z, frames, rows, columns)

  zeros = jnp.zeros_like(pixels)
  _, forward = jax.linearize(
      lambda z: residual(pixels + lift(z), light), zeros)
  pull = jax.linear_transpose(forward, zeros)
  right, = pull(jax.tree.map(jnp.negative, now))
  # Scaled, since squares of late residuals leave float32's range.
  size = jnp.max(jnp.abs(right)) + jnp.finfo(pixels.dtype).tiny
  z, _ = jax.scipy.sparse.linalg.cg(
      lambda d: pull(forward(d))[0] + damping * d, right / size, tol=_SOLVED,
      maxiter=inner_steps)
  return lift(z * size).astype(dtype)


def to_float32(tree: Any) -> Any:
  """Returns a tree with its floats in float32, and all else as it is."""
  return jax.tree.map(
      lambda a: a.astype(jnp.float32)
      if jnp.issubdtype(jnp.result_type(a), jnp.floating) else a, tree)
