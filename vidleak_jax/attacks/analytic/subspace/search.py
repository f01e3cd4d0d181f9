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

from vidleak_jax.attacks.analytic.subspace import reading
from vidleak_jax.attacks.analytic.subspace.constraints import Evidence, Layout
from vidleak_jax.types import Array, Params

_INNER_STEPS = 150
_SHARP_INNER_STEPS = 400  # where directions are weighed: condition is worse
_INNER_TOLERANCE = 1e-5  # of the normal equations' residual
_FIRST_DAMPING = 0.03  # of the cost
_EASING = 0.3          # of the damping, after a step that was taken whole
_HALVINGS = 5
_SETTLED = 1e-3        # relative fall of the cost that ends the search ...
_EASED = 1e-4          # ... once the damping is that small, of its first value


class State(NamedTuple):
  """A search under way."""
  c: Array         # [N, r] coordinates
  cost: float      # mean square of what the evidence contradicts
  damping: float
  first: float     # the first damping
  step: int = 0
  settled: bool = False


class Search(NamedTuple):
  """Programs over (c [N, r], evidence)."""
  clip: Callable[[Array, Evidence], Array]  # -> [T, H, W, C]
  cost: Callable[[Array, Evidence], Array]
  of_tokens: Callable[[Array, Evidence], Array]  # -> [N]
  step: Callable[..., Array]                # (c, evidence, damping) -> move


def build(
    logits: Callable[[Params, Array], Array], network: Layout,
    shape: tuple[int, ...],
) -> Search:
  """The search in one network, compiled once for all messages."""
  tiles = network.tiling
  count = len(tiles.order)

  def clip(c, evidence):
    patches = evidence.grey + c @ evidence.basis
    black, slope = (jnp.asarray(a, c.dtype) for a in (tiles.black, tiles.slope))
    flat = jnp.zeros(tiles.order.size, c.dtype).at[tiles.order].set(
        (patches - black) / slope)
    return flat.reshape(shape)

  def residual(c, evidence):
    inputs = reading.read(logits, evidence.params, clip(c, evidence)).inputs
    parts = {}
    for paths, outside in evidence.outside.items():
      x = inputs[paths]
      weight = evidence.trust * evidence.weights[paths]
      parts[paths] = x @ outside * (
          weight / (network.sizes[paths] * np.sqrt(x.size)))
    sums = c @ evidence.means - evidence.members
    sums *= evidence.trust * evidence.weight / np.sqrt(max(sums.size, 1))
    unmade = {paths: _unmade(inputs[paths], wanted, evidence.slack)
              for paths, wanted in evidence.directions.items()}
    return parts, sums, unmade

  def cost(c, evidence):
    return _dot(*[residual(c, evidence)] * 2)

  def of_tokens(c, evidence):
    parts, sums, _ = residual(c, evidence)
    rows = [sums, *(p for p in parts.values() if len(p) == count)]
    return sum(jnp.sum(part ** 2, 1) for part in rows)

  def step(c, evidence, damping):
    r, forward = jax.linearize(lambda c: residual(c, evidence), c)
    transpose = jax.linear_transpose(forward, c)
    return cg(lambda x: transpose(forward(x))[0] + damping * x,
              -transpose(r)[0], tol=_INNER_TOLERANCE,
              maxiter=_SHARP_INNER_STEPS if evidence.directions else
              _INNER_STEPS)[0]

  return Search(*map(jax.jit, (clip, cost, of_tokens, step)))


def unbegun(c: Array) -> State:
  """Where a search is to begin, before its evidence is known."""
  return State(c, 0.0, 0.0, 0.0)


def begin(search: Search, evidence: Evidence, c: Array) -> State:
  """A search from coordinates c."""
  cost = float(search.cost(c, evidence))
  return State(c, cost, _FIRST_DAMPING * cost, _FIRST_DAMPING * cost)


def descend(
    search: Search, evidence: Evidence, state: State, max_steps: int = 60,
    report: Callable[[State], None] = lambda state: None,
) -> State:
  """Runs a search until it settles.

  Args:
    search: of the network.
    evidence: of the message.
    state: where it stands.
    max_steps: of Levenberg and Marquardt, those already done included.
    report: told the state after each.
  """
  while state.step < max_steps and not state.settled:
    state = _advance(search, evidence, state)
    report(state)
  return state


def _advance(search, evidence, state):
  c, cost, damping, first, step, _ = state
  move = search.step(c, evidence, damping)
  costs = (float(search.cost(c + move / 2 ** i, evidence))
           for i in range(_HALVINGS))
  halvings, new = next(
      ((i, new) for i, new in enumerate(costs) if new < cost), (None, cost))
  if halvings is None:
    return State(c, cost, 10 * damping, first, step + 1, damping > first)
  return State(
      c + move / 2 ** halvings, new, damping * (1.0 if halvings else _EASING),
      first, step + 1,
      cost - new < _SETTLED * cost and damping < _EASED * first)


def _unmade(x, wanted, slack):
  """What rows of x [n, d] leave of `wanted` [d, k], and with which errors.

  Least squares in the errors [n, k], whose size costs: they are few and small,
  and where x is nearly flat only large ones would do.
  """
  gram = x @ x.T
  ridge = slack * jnp.trace(gram)
  errors = jax.scipy.linalg.solve(
      gram + ridge * jnp.eye(len(gram)), x @ wanted, assume_a='pos')
  return wanted - x.T @ errors, jnp.sqrt(ridge) * errors


def _dot(a, b):
  return sum(jax.tree.leaves(jax.tree.map(lambda u, v: jnp.sum(u * v), a, b)))
