"""What tokens of one place say of each other, for an approximate inverse.

In divided attention the frames' tokens of one place see each other along time,
and other places only through a mean over many tokens. With that mean held
constant the normal equations fall into one block for each place. Their weakest
directions, details that neighbouring frames exchange, lie inside these blocks.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vidleak_jax.attacks.analytic.subspace import reading
from vidleak_jax.models.transformer import Attention
from vidleak_jax.types import Array, Params

_AMONG_PLACES = 'space'  # the name of that attention
_AT_ONCE = 8    # columns of the blocks
_FLOOR = 1e-13  # of a block's mean diagonal, so that it has an inverse


class Places(NamedTuple):
  """Which tokens and rows belong together."""
  tokens: np.ndarray  # [G, m] of each place
  rows: dict[tuple[reading.Path, ...], np.ndarray]  # [G, k] of a layer's input


def held(function: Callable[..., Any]) -> Callable[..., Any]:
  """The function of a network whose places do not see each other move."""
  def hold(call, args, kwargs, context):
    result = call(*args, **kwargs)
    module = context.module
    if isinstance(module, Attention) and module.name == _AMONG_PLACES:
      return jax.lax.stop_gradient(result)
    return result

  def wrapped(*args):
    with nn.intercept_methods(hold):
      return function(*args)
  return wrapped


def find(
    logits: Callable[[Params, Array], Array], params: Params,
    tiles: reading.Tiling, clip: Array,
) -> Places | None:
  """The places of a network with divided attention, none of others.

  Args:
    logits: the network.
    params: of it, float64.
    tiles: how it cuts clips into patches.
    clip: [T, H, W, C] any, of which no two patches are alike.
  """
  found = []

  def look(call, args, kwargs, context):
    found.append(isinstance(context.module, Attention)
                 and context.module.name == _AMONG_PLACES)
    return call(*args, **kwargs)

  with nn.intercept_methods(look):
    jax.eval_shape(logits, params, clip[None])
  if not any(found):
    return None
  _, *place, _ = np.unravel_index(tiles.order[:, 0], clip.shape)
  _, groups = np.unique(np.stack(place), axis=1, return_inverse=True)
  groups = groups.ravel()
  tokens = np.argsort(groups, kind='stable').reshape(groups.max() + 1, -1)

  def move(sizes):
    """Rates of all inputs where each token moves by a size of its place."""
    moved = np.zeros(tiles.order.size)
    moved[tiles.order] = sizes[groups][:, None] * ramp
    return jax.jvp(inputs, (clip,), (moved.reshape(clip.shape),))[1]

  inputs = held(lambda clip: reading.read(logits, params, clip).inputs)
  ramp = np.linspace(-1, 1, tiles.order.shape[1])
  even, graded = move(np.ones(len(tokens))), move(1.0 + np.arange(len(tokens)))
  rows = {}
  for paths, rate in even.items():
    square = np.sum(np.square(rate), 1)
    label = np.rint(np.sum(rate * graded[paths], 1)
                    / np.maximum(square, 1e-30)).astype(int) - 1
    rows[paths] = [np.flatnonzero(label == g) for g in range(len(tokens))]
  return Places(tokens, {paths: np.stack(each) for paths, each in rows.items()
                         if len({len(row) for row in each}) == 1})


def blocks(
    places: Places, residual: Callable[[Array], tuple[dict, Array]], c: Array
) -> Array:
  """[G, m r, m r] J^T J of each place.

  Args:
    places: of the network.
    residual: c -> ({layer: rows of its inputs}, [N, J]), see `held`.
    c: [N, r], in float32 if that is enough; squares are in float64.
  """
  count, rank = places.tokens.shape[1], c.shape[1]
  _, forward = jax.linearize(residual, c)

  def column(i):
    move = jnp.zeros_like(c).at[
        jnp.asarray(places.tokens)[:, i // rank], i % rank].set(1)
    parts, sums = forward(move)
    chosen = [part[places.rows[paths]] for paths, part in parts.items()]
    return [x.reshape(len(x), -1) for x in (*chosen, sums[places.tokens])]

  columns = jax.lax.map(column, jnp.arange(count * rank), batch_size=_AT_ONCE)
  return sum(jnp.einsum('rga,sga->grs', j, j)
             for j in (j.astype(jnp.float64) for j in columns))


def inverse(blocks: Array, damping: Array) -> Array:
  """[G, m r, m r] of blocks with a damping."""
  size = blocks.shape[-1]
  mean = jnp.trace(blocks, axis1=1, axis2=2).max() / size
  return jnp.linalg.inv(
      blocks + jnp.maximum(damping, _FLOOR * mean) * jnp.eye(size))


def apply(places: Places, inverse: Array, x: Array) -> Array:
  """The inverse [G, m r, m r] times x [N, r]."""
  flat = x[places.tokens].reshape(len(places.tokens), -1)
  solved = jnp.einsum('grs,gs->gr', inverse, flat)
  return jnp.zeros_like(x).at[places.tokens].set(
      solved.reshape(*places.tokens.shape, -1))
