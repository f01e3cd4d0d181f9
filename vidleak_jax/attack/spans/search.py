"""The patches whose layers' inputs lie where the gradient says.

Levenberg and Marquardt's method with conjugate gradients inside, in float64: a
forward pass of the first block and its derivatives, nothing of the loss.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.sparse.linalg import cg

from vidleak_jax.attack.spans import reading
from vidleak_jax.attack.spans.evidence import Evidence, Layout
from vidleak_jax.types import Array, Params

_INNER_STEPS = 150
_INNER_TOLERANCE = 1e-5  # of the normal equations' residual
_FIRST_DAMPING = 0.03  # of the cost
_EASING = 0.3          # of the damping, after a step that was taken whole
_HALVINGS = 5
_SETTLED = 1e-3        # relative fall of the cost that ends the search ...
_EASED = 1e-4          # ... once the damping is that small, of its first value


class Found(NamedTuple):
  """Where a search ended."""
  c: Array            # [N, r] coordinates
  cost: float         # mean square of what the evidence contradicts
  of_tokens: np.ndarray  # [N] its share by token


class Search(NamedTuple):
  """Programs over (c [N, r], evidence)."""
  clip: Callable[[Array, Evidence], Array]  # -> [T, H, W, C]
  cost: Callable[[Array, Evidence], Array]
  of_tokens: Callable[[Array, Evidence], Array]  # -> [N]
  step: Callable[..., Array]                # (c, evidence, damping) -> move


def build(
    logits: Callable[[Params, Array], Array], found: Layout,
    shape: tuple[int, ...],
) -> Search:
  """The search in one network, compiled once for all messages."""
  tiles = found.tiling
  count = len(tiles.order)

  def clip(c, evidence):
    patches = evidence.grey + c @ evidence.basis
    flat = jnp.zeros(tiles.order.size).at[tiles.order].set(
        (patches - tiles.black) / tiles.slope)
    return flat.reshape(shape)

  def residual(c, evidence):
    inputs = reading.read(logits, evidence.params, clip(c, evidence)).inputs
    parts = {}
    for paths, span in evidence.spans.items():
      x = inputs[paths]
      size = found.sizes[paths] * np.sqrt(x.size)
      parts[paths] = (x - (x @ span) @ span.T) / size
    sums = c @ evidence.means - evidence.members
    return parts, sums / np.sqrt(max(sums.size, 1))

  def cost(c, evidence):
    return _dot(*[residual(c, evidence)] * 2)

  def of_tokens(c, evidence):
    parts, sums = residual(c, evidence)
    rows = [sums, *(p for p in parts.values() if len(p) == count)]
    return sum(jnp.sum(part ** 2, 1) for part in rows)

  def step(c, evidence, damping):
    r, forward = jax.linearize(lambda c: residual(c, evidence), c)
    transpose = jax.linear_transpose(forward, c)
    return cg(lambda x: transpose(forward(x))[0] + damping * x,
              -transpose(r)[0], tol=_INNER_TOLERANCE, maxiter=_INNER_STEPS)[0]

  return Search(*map(jax.jit, (clip, cost, of_tokens, step)))


def descend(
    search: Search, evidence: Evidence, c: Array, max_steps: int = 60
) -> Found:
  """Runs one search from coordinates c to where it settles."""
  cost = float(search.cost(c, evidence))
  damping = first = _FIRST_DAMPING * cost
  for _ in range(max_steps):
    move = search.step(c, evidence, damping)
    costs = (float(search.cost(c + move / 2 ** i, evidence))
             for i in range(_HALVINGS))
    halvings, new = next(
        ((i, new) for i, new in enumerate(costs) if new < cost), (None, cost))
    if halvings is None:
      if damping > first:
        break
      damping *= 10
      continue
    settled = cost - new < _SETTLED * cost and damping < _EASED * first
    c, cost = c + move / 2 ** halvings, new
    if settled:
      break
    damping *= 1.0 if halvings else _EASING
  return Found(c, cost, np.asarray(search.of_tokens(c, evidence)))


def _dot(a, b):
  return sum(jax.tree.leaves(jax.tree.map(lambda u, v: jnp.sum(u * v), a, b)))
