"""The match: how far the guess's gradient is from the leaked one.

A distance maps two trees of the same structure to a scalar. `gradient_match`
turns one into a term of the objective, `(guess, target) -> []`.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax import lax

from vidleak_jax import trees
from vidleak_jax.types import (
    Array,
    Guess,
    Params,
    Target,
    UserError,
    is_off,
)

Distance = Callable[[Params, Params], Array]
Term = Callable[[Guess, Target], Array]

# Parameters of fewer entries are matched as one vector. Joining larger ones
# costs a step more than it saves (`docs/lab/performance.md`).
_SMALL = 4096
_TINY = 1e-20  # keeps values and slopes finite where a norm is 0


def squared_l2(update: Params, target: Params) -> Array:
  """Sum of squared differences: DLG (1906.08935), equation 2."""
  return _sum(jax.tree.map(lambda u, t: jnp.sum((u - t) ** 2), update, target))


def relative_l2(update: Params, target: Params) -> Array:
  """`squared_l2` over the target's squared norm: holds scale and contrast."""
  return squared_l2(update, target) / (trees.dot(target, target) + _TINY)


def cosine(update: Params, target: Params) -> Array:
  """1 - cosine over all parameters: Inverting Gradients (2003.14053), eq. 4."""
  scale = (lax.rsqrt(trees.dot(update, update) + _TINY)
           * lax.rsqrt(trees.dot(target, target) + _TINY))
  return 1.0 - trees.dot(update, target) * scale


DISTANCES: dict[str, Distance] = {
    'cosine': cosine,
    'relative_l2': relative_l2,
    'squared_l2': squared_l2,
}


def weighted_distance(weights: Mapping[str, Array | float]) -> Distance:
  """The weighted sum of some `DISTANCES`; a weight of 0 leaves one out.

  Raises:
    UserError: when every weight is 0.
  """
  chosen = [(weight, DISTANCES[name]) for name, weight in weights.items()
            if not is_off(weight)]
  if not chosen:
    raise UserError(f'Every distance weighs 0: {weights}. Give one a weight.')

  def distance(update, target):
    return sum(w * one(update, target) for w, one in chosen)
  return distance


def gradient_match(
    loss: Callable[..., Array], distance: Distance,
    pack: Callable[[Params], Params] | None = lambda params: params,
) -> Term:
  """The match of a FedSGD leak, with its exact gradient by forward mode.

  With v = dD/dg at g = dL/dp, the gradient of D(g(x)) is the derivative of
  dL/dx along p + t v: one `jvp` over one `grad`, no double backward.

  Args:
    loss: a victim's, `(params, clips, labels) -> []`.
    distance: between gradients; a function of the sums over all entries.
    pack: of the victim: the parameters in fewer leaves, which the loss takes
      too, and gradients like them. None: the distance looks at single leaves,
      so that they stay apart.

  Returns:
    A term that is right in value and first derivative. Its second derivative
    is zero, so use it with first-order optimizers.
  """

  def term(guess, target):
    moving, rebuild = _differentiable(guess)
    join, split = _packer(target.params, pack)
    weights, evidence = join(target.params), join(target.evidence)
    gradient = jax.grad(
        lambda params: loss(split(params), *rebuild(moving)))(weights)
    value, v = jax.value_and_grad(distance)(gradient, evidence)
    inner = jax.grad(
        lambda moved, params: loss(split(params), *rebuild(moved)))
    slope = jax.jvp(
        lambda params: inner(moving, params), (weights,), (v,))[1]
    return _with_gradient(value, slope, moving)
  return term


def update_match(
    client: Callable[[Params, Array, Array], Params], distance: Distance
) -> Term:
  """The match of any update the attacker can simulate, by double backward.

  Args:
    client: `(params, clips, labels) -> update`, such as a FedAvg client's.
    distance: between updates.
  """

  def term(guess, target):
    moving, rebuild = _differentiable(guess)
    return distance(client(target.params, *rebuild(moving)), target.evidence)
  return term


def _packer(params, pack):
  """How parameters become fewer leaves, and those what the loss takes."""
  if pack is None:
    return lambda params: params, lambda params: params
  join, split = trees.joiner(jax.eval_shape(pack, params), _SMALL)
  return lambda params: join(pack(params)), split


def _differentiable(guess):
  """What of a guess varies, and how it becomes (clips, labels)."""
  if jnp.issubdtype(guess.labels.dtype, jnp.integer):
    return guess.clips, lambda clips: (clips, guess.labels)
  return guess, lambda g: (g.clips, jax.nn.softmax(g.labels))


def _with_gradient(value, slope, moving):
  """`value`, whose derivative by `moving` is `slope`."""
  terms = jax.tree.map(
      lambda s, x: jnp.vdot(lax.stop_gradient(s), x - lax.stop_gradient(x)),
      slope, moving)
  return lax.stop_gradient(value) + _sum(terms)


def _sum(tree):
  return sum(jax.tree.leaves(tree))
