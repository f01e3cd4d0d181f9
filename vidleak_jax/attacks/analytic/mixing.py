"""The B x B equations of a softmax head's batch: starts and solver.

The unknown M satisfies `E + Y = softmax(M^-T L0 + s)` and `1^T M = u`, with
`E = diag(1 / w) M E0`, see `head_unmixing`. Everything is float64: call
`solve_many` under `jax.enable_x64(True)`.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vidleak_jax.attacks.local_training import Turns
from vidleak_jax.types import Array

_DAMPING = 1e-3    # Marquardt's, at the start; relative to the diagonal
_EXACT = 1e-24     # squared residual that nothing improves
_SLOW = 1e-4       # relative fall of the squared residual that is a stall
_PATIENCE = 12     # stalled or refused steps before a start ends


class Mixing(NamedTuple):
  """The constants of one batch's equations."""
  errors: Array   # E0, [B, K]
  logits: Array   # L0, [B, K]
  shift: Array    # s, [K]: the head's bias where L0 does not hold it
  ones: Array     # u, [B]
  weight: Array   # [] of 1^T M = u; 0 where the head has no bias


class _State(NamedTuple):
  mixing: Array   # M, [B, B]
  labels: Array   # [B] int32
  cost: Array     # [] squared residual
  damping: Array
  step: Array
  stalled: Array


def start(
    rng: np.random.Generator,
    problem: Mixing,
    labels: np.ndarray,
    weights: np.ndarray,
    bias_update: np.ndarray,
    has_bias: bool,
    *,
    first: bool,
    spread: float,
) -> np.ndarray:
  """A first M, [B, B], from a class-wise guess of the errors.

  Clips of class i get errors t_i (q - onehot_i), with q the errors' common
  positive part and t_i what the bias gradient leaves for each unit of the
  weight n_i of that class.
  Least squares gives the mean feature of each class in the coordinates of H0.
  Features of one class differ by random vectors outside the span of the means.

  Args:
    rng: source of the random parts.
    problem: the equations.
    labels: [B], a candidate.
    weights: [B] of these clips.
    bias_update: dL/dc, or what stands for it, [K].
    has_bias: whether features have a last entry of 1.
    first: take t_i as they are; otherwise vary them at random.
    spread: size of the differences, relative to the mean feature.
  """
  basis = np.asarray(problem.errors)
  batch_size, num_classes = basis.shape
  classes, where = np.unique(labels, return_inverse=True)
  counts = np.bincount(where, weights)
  common = np.maximum(bias_update, 1e-9)
  common = common / common.sum()
  size = np.clip(-batch_size * bias_update[classes] / counts, 0.02, 1)
  if not first:
    size = np.clip(size * np.exp(rng.normal(size=len(size)) / 2), 0.01, 1)
  sums = (size * counts)[:, None] * (common - np.eye(num_classes)[classes])
  means = np.linalg.lstsq(sums.T, basis.T, rcond=None)[0]
  span, _ = np.linalg.qr(means.T)
  apart = rng.normal(size=(batch_size, batch_size))
  apart -= apart @ span @ span.T
  apart /= np.linalg.norm(apart, axis=1, keepdims=True) + 1e-12
  features = np.zeros((batch_size, batch_size))
  for mean, each in zip(means, classes):
    rows = np.flatnonzero(labels == each)
    differences = apart[rows] - apart[rows].mean(0)
    features[rows] = mean + spread * np.linalg.norm(mean) * differences
  if has_bias:
    ones = np.asarray(problem.ones)
    features += np.outer(1 - features @ ones, ones) / (ones @ ones)
  features += (1e-3 * np.linalg.norm(features) / batch_size
               * rng.normal(size=features.shape))
  return np.linalg.inv(features).T


@functools.partial(jax.jit, static_argnames=('max_steps', 'fixed'))
def solve_many(
    problem: Mixing,
    starts: Array,
    labels: Array,
    turns: Turns,
    smoothing: float,
    max_steps: int,
    fixed: bool,
) -> tuple[Array, Array, Array]:
  """Levenberg-Marquardt from each start.

  Args:
    problem: the equations.
    starts: M, [S, B, B] float64.
    labels: [S, B] int32.
    turns: of the clips, leaves [S, ...].
    smoothing: of the labels.
    max_steps: of each start.
    fixed: whether the labels stay; otherwise each accepted step relabels the
      clips where that lowers the residual.

  Returns:
    (M [S, B, B], labels [S, B], residual relative to |E| [S]).
  """
  together = None if jax.default_backend() == 'cpu' else len(starts)

  def one(row):
    end = _solve(problem, *row, smoothing, max_steps, fixed)
    size = jnp.sum(errors_of(problem, end.mixing, row[2]) ** 2)
    return end.mixing, end.labels, jnp.sqrt(end.cost / size)
  return jax.lax.map(one, (starts, labels, turns), batch_size=together)


def errors_of(problem: Mixing, mixing: Array, turns: Turns) -> Array:
  """Returns E, [B, K], each clip's dL_b/dlogits."""
  return mixing @ problem.errors / turns.weights[:, None]


def _solve(problem, mixing, labels, turns, smoothing, max_steps, fixed):
  num_classes = problem.errors.shape[1]

  def targets(labels):
    hot = jax.nn.one_hot(labels, num_classes, dtype=mixing.dtype)
    return (1 - smoothing) * hot + smoothing / num_classes

  def cost(mixing, labels):
    errors, _, _, p = _forward(problem, turns, mixing)
    rows = errors + targets(labels) - p
    sums = problem.weight * (mixing.sum(0) - problem.ones)
    total = jnp.sum(rows ** 2) + jnp.sum(sums ** 2)
    return jnp.where(jnp.isfinite(total), total, jnp.inf)

  def relabel(mixing, labels):
    errors, _, _, p = _forward(problem, turns, mixing)
    best = jnp.argmin(errors - p, axis=1).astype(labels.dtype)
    return jnp.where(cost(mixing, best) < cost(mixing, labels), best, labels)

  def body(state):
    moved = state.mixing + _step(problem, turns, state, targets(state.labels))
    named = state.labels if fixed else relabel(moved, state.labels)
    new = cost(moved, named)
    accept = new < state.cost
    fell = accept & (state.cost - new > _SLOW * state.cost)
    return _State(
        jnp.where(accept, moved, state.mixing),
        jnp.where(accept, named, state.labels),
        jnp.where(accept, new, state.cost),
        jnp.where(accept, jnp.maximum(state.damping / 10, 1e-15),
                  state.damping * 10),
        state.step + 1, jnp.where(fell, 0, state.stalled + 1))

  def unfinished(state):
    return ((state.step < max_steps) & (state.stalled < _PATIENCE)
            & (state.cost > _EXACT))

  return jax.lax.while_loop(unfinished, body, _State(
      mixing, labels, cost(mixing, labels), jnp.asarray(_DAMPING, mixing.dtype),
      jnp.asarray(0), jnp.asarray(0)))


def _forward(problem, turns, mixing):
  """(E, M^-T, logits without the bias and earlier steps, probabilities).

  H0 has orthonormal rows, so that A A^T, A = M^-T, holds the products of
  features by which earlier steps have moved the logits.
  """
  errors = errors_of(problem, mixing, turns)
  inverse = jnp.linalg.inv(mixing).T
  z = inverse @ problem.logits
  moved = (turns.before * (inverse @ inverse.T)) @ errors
  return errors, inverse, z, jax.nn.softmax(
      z + problem.shift[None] - moved)


def _step(problem, turns, state, targets):
  """A damped Gauss-Newton step of M.

  With A = M^-T, dA = -A dM^T A; so dM_ji changes row b's misfit by
  [b = j] E0_ik / w_b + A_bi S_b (A_j L0)_k, S_b = diag(p_b) - p_b p_b^T. That
  earlier steps hang on M as well is left out: they move the logits by little.
  """
  batch_size = len(state.mixing)
  errors, inverse, z, p = _forward(problem, turns, state.mixing)
  rows = errors + targets - p
  sums = problem.weight * (state.mixing.sum(0) - problem.ones)
  centred = z[None] - jnp.einsum('bk,jk->bj', p, z)[..., None]
  slope = jnp.einsum('bi,bjk->bkji', inverse, p[:, None] * centred)
  slope += jnp.einsum(
      'bj,ik->bkji', jnp.diag(1 / turns.weights), problem.errors)
  slope = slope.reshape(rows.size, -1)
  ones = problem.weight * jnp.tile(
      jnp.eye(batch_size, dtype=p.dtype), (1, batch_size))
  square = slope.T @ slope + ones.T @ ones
  descent = -(slope.T @ rows.ravel() + ones.T @ sums)
  diagonal = jnp.diag(square)
  square += jnp.diag(state.damping * diagonal + 1e-14 * diagonal.max())
  return jnp.linalg.solve(square, descent).reshape(state.mixing.shape)
