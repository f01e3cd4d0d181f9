"""Least squares with operators: conjugate gradients, one message at a time."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

from vidleak_jax.types import Array


class Solution(NamedTuple):
  """Of one least-squares problem."""
  x: Array         # the unknowns
  residual: Array  # [] |A x - b| / |size|, rows weighted as they were given
  steps: Array     # [] int, iterations taken
  ritz: tuple[Array, Array]  # the iteration's (alpha, beta), each [max_steps]


def least_squares(
    forward: Callable[[Array], tuple],
    target: tuple,
    start: Array,
    scale: Array,
    *,
    size: tuple | None = None,
    max_steps: int,
    tolerance: float,
) -> Solution:
  """Minimises |forward(x) - target|, starting from (and staying near) `start`.

  Conjugate gradients on the normal equations without forming them (CGLS), the
  columns scaled by `scale`. Where the equations leave directions open, the
  answer keeps those of `start`.

  Args:
    forward: linear, from an array like `start` to a pytree like `target`.
    target: pytree of arrays.
    start: the first guess.
    scale: like `start`, one over the norm of each column.
    size: like `target`, what its errors are in proportion to, if not itself.
    max_steps: of the iteration.
    tolerance: of the normal equations' residual, relative to that of `size`
      (thus of x = 0), so that a start which is nearly right has arrived.
  """
  transpose = jax.linear_transpose(forward, start)
  size = target if size is None else size

  def gradient(r):
    return scale * transpose(r)[0]

  def cond(state):
    *_, gamma, step, _ = state
    return (gamma > stop) & (step < max_steps)

  def body(state):
    x, r, p, gamma, step, ritz = state
    q = forward(scale * p)
    alpha = gamma / _dot(q, q)
    x = x + alpha * scale * p
    r = jax.tree.map(lambda a, b: a - alpha * b, r, q)
    s = gradient(r)
    new = _dot(s, s)
    beta = new / gamma
    ritz = ritz[0].at[step].set(alpha), ritz[1].at[step].set(beta)
    return x, r, s + beta * p, new, step + 1, ritz

  r = jax.tree.map(jnp.subtract, target, forward(start))
  p = gradient(r)
  gamma = _dot(p, p)
  from_zero = gradient(size)
  stop = tolerance ** 2 * _dot(from_zero, from_zero)
  ritz = (jnp.zeros(max_steps, start.dtype),) * 2
  x, r, *_, steps, ritz = jax.lax.while_loop(
      cond, body, (start, r, p, gamma, 0, ritz))
  residual = jnp.sqrt(_dot(r, r) / jnp.maximum(_dot(size, size), 1e-300))
  return Solution(x, residual, steps, ritz)


def condition(solution: Solution) -> float:
  """Estimates the condition number of the column-scaled system.

  From the Lanczos matrix that the iteration built: a lower bound, close once
  the iteration has converged.
  """
  n = int(solution.steps)
  if n == 0:
    return 1.0
  alpha, beta = (np.asarray(a)[:n] for a in solution.ritz)
  diagonal = 1 / alpha
  diagonal[1:] += beta[:-1] / alpha[:-1]
  off = np.sqrt(beta[:-1]) / alpha[:-1]
  values = scipy.linalg.eigvalsh_tridiagonal(diagonal, off)
  return float(np.sqrt(values[-1] / max(values[0], np.finfo(float).tiny)))


def _dot(a, b):
  return sum(jax.tree.leaves(jax.tree.map(lambda u, v: jnp.sum(u * v), a, b)))
