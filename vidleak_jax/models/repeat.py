"""Equal blocks in a row, as one loop: programs that compile in a fraction."""

import itertools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from vidleak_jax.models.layers import is_plain
from vidleak_jax.types import Array, Params

_STACKED = 'blocks'
# Blocks from which on it pays. Four compile 7 % faster as a loop, and where
# tokens are few, copies of their parameters make a step a quarter slower.
_WORTH_IT = 8


def repeat(
    parent: nn.Module, make: Callable[..., nn.Module], count: int, *xs: Array
) -> tuple[Array, ...]:
  """Applies `block0`, `block1`, ... of a module, one after another.

  Their parameters stand in the tree as those of any submodule. Where there are
  enough of them, they are stacked while the network is traced, unless they are
  `stacked` already, and the blocks become one `lax.scan`: XLA then compiles one
  block instead of all. Values are the same up to rounding.

  Args:
    parent: the module in whose compact `__call__` the blocks stand.
    make: `make(name=...)` returns a block that maps `xs` to as many arrays of
      the same shapes; its only variables are parameters of the same shapes in
      all blocks.
    count: blocks.
    *xs: arrays.

  Returns:
    The last block's arrays.
  """
  if count < _WORTH_IT or parent.is_initializing() or is_plain():
    for i in range(count):
      xs = _tuple(make(name=f'block{i}')(*xs))
    return xs
  blocks = stacked(parent.variables['params'])[_STACKED]
  block = make(parent=None)

  def step(xs, own):
    return _tuple(block.apply({'params': own}, *xs)), None
  return lax.scan(step, xs, blocks)[0]


def stacked(params: Params) -> Params:
  """Returns a tree in which many `block{i}` are one, leaves [count, ...].

  A network that calls `repeat` takes either tree. What is taken by its leaves,
  such as a gradient and its norm, has a twelfth of them to compile.

  Args:
    params: of such a network, or of any other without `block{i}`.
  """
  if not isinstance(params, dict):
    return params
  own = {name: stacked(child) for name, child in params.items()}
  count = next(i for i in itertools.count() if f'block{i}' not in own)
  if count < _WORTH_IT:
    return own
  blocks = [own.pop(f'block{i}') for i in range(count)]
  return own | {_STACKED: jax.tree.map(lambda *x: jnp.stack(x), *blocks)}


def _tuple(found: Any) -> tuple[Array, ...]:
  return found if isinstance(found, tuple) else (found,)
