"""The whole gradient, its faint directions weighed nearly like its strong ones.

A kernel's gradient is U S V^T. A few directions have nearly all of its size, so
matching it as it is says nothing of the others. Gauss-Newton here matches
W (G(x) - G) W' with W = s^-1/2 U^T and W' = V s^-1/2, where s is S but at least
a share of its largest. The share falls: as long as errors are coarse, faint
directions would only drown what the strong ones say.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.sparse.linalg import cg

from vidleak_jax.attacks.analytic.subspace import search
from vidleak_jax.attacks.analytic.subspace.constraints import Evidence
from vidleak_jax.attacks.matching.gauss_newton import to_float32
from vidleak_jax.types import Array, Params, Victim

SHARES = 1e-2, 1e-3, 1e-4, 1e-5, 1e-6  # of the largest singular value
FAST = 1e-3  # shares from which on steps may be computed in float32
_SEEN = 3e-8  # of it; a layer that shows half of its tokens takes part
_INNER_STEPS = 60
_INNER_TOLERANCE = 1e-3
_FIRST_DAMPING = 1e-3  # of the cost
_EASING, _TIGHTENING = 0.2, 1.5  # of the damping, by whether a step was whole
_SHORTEST = 0.02       # of a step
_SETTLED = 0.1         # relative fall of the cost that ends a share


class Target(NamedTuple):
  """What one message's gradient is to be, kernel by kernel."""
  label: Array
  left: dict[str, np.ndarray]   # [d, k] W^T
  right: dict[str, np.ndarray]  # [e, k] W'
  goal: dict[str, np.ndarray]   # [k, k] W G W'


class Matching(NamedTuple):
  """Programs over (c [N, r], evidence, target)."""
  cost: Callable[..., Array]
  step: Callable[..., Array]  # (c, evidence, target, damping, fast) -> move


def build(victim: Victim, program: search.Search) -> Matching:
  """The matching in one network, compiled once for all messages."""
  def residual(c, evidence, target):
    clip = program.clip(c, evidence)
    gradient = _kernels(jax.grad(victim.loss)(
        evidence.params, clip[None], target.label[None]))
    return {name: left.T @ gradient[name] @ target.right[name]
            - target.goal[name] for name, left in target.left.items()}

  def cost(*args):
    rows = jax.tree.leaves(residual(*args))
    return sum(jnp.sum(row ** 2) / len(row) for row in rows) / len(rows)

  def step(c, evidence, target, damping, fast):
    r = residual(c, evidence, target)
    if fast:
      r, c, evidence, target, damping = to_float32(
          (r, c, evidence, target, jnp.asarray(damping)))
    _, forward = jax.linearize(lambda c: residual(c, evidence, target), c)
    transpose = jax.linear_transpose(forward, c)

    def back(rows):
      return transpose({name: row / len(row) / len(rows)
                        for name, row in rows.items()})[0]
    return cg(lambda x: back(forward(x)) + damping * x, -back(r),
              tol=_INNER_TOLERANCE, maxiter=_INNER_STEPS)[0]

  return Matching(jax.jit(cost), jax.jit(step, static_argnums=4))


def target(update: Params, label: int, num_tokens: int, share: float) -> Target:
  """Weighs the directions of one message's gradient, float64."""
  left, right, goal = {}, {}, {}
  for name, kernel in _kernels(update).items():
    u, values, v = np.linalg.svd(kernel, full_matrices=False)
    count = min(len(values), num_tokens + 1)  # with a class token
    if not values[min(num_tokens // 2, count - 1)] > _SEEN * values[0]:
      continue
    scale = 1 / np.sqrt(np.maximum(values[:count], share * values[0]))
    left[name], right[name] = u[:, :count] * scale, v[:count].T * scale
    goal[name] = left[name].T @ kernel @ right[name]
  return Target(np.asarray(label), left, right, goal)


def descend(
    program: Matching, evidence: Evidence, goal: Target, c: Array,
    max_steps: int, report: Callable[[float], None] = lambda cost: None,
    fast: bool = False,
) -> Array:
  """Gauss-Newton from coordinates c; returns where it ends.

  Args:
    program: of the network.
    evidence: of the message; its basis is that of c.
    goal: of the message, at one share.
    c: [N, r].
    max_steps: at most so many.
    report: told the cost after each.
    fast: whether steps are computed in float32: for shares that its rounding
      is far below.
  """
  cost = float(program.cost(c, evidence, goal))
  damping = _FIRST_DAMPING * cost
  for _ in range(max_steps):
    move, length = program.step(
        c, evidence, goal, damping, fast), 1.0
    while not (new := float(program.cost(
        c + length * move, evidence, goal))) < cost:
      length /= 2
      if length < _SHORTEST:
        return c
    c, fall, cost = c + length * move, 1 - new / cost, new
    damping *= _EASING if length == 1.0 else _TIGHTENING
    report(cost)
    if length == 1.0 and fall < _SETTLED:
      break
  return c


def _kernels(tree):
  """{name: kernel} of all dense layers."""
  return {jax.tree_util.keystr(path): leaf
          for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
          if path[-1].key == 'kernel' and leaf.ndim == 2}
