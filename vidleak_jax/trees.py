"""Helpers for parameter trees that every stage shares."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vidleak_jax.errors import UserError

_SEPARATOR = '/'


def at(tree: Any, path: Sequence[str]) -> Any:
  """Returns the subtree at a path of keys.

  Raises:
    UserError: where the path leads nowhere, with what stands there instead.
  """
  for i, key in enumerate(path):
    if not isinstance(tree, Mapping) or key not in tree:
      here = sorted(tree) if isinstance(tree, Mapping) else 'an array'
      raise UserError(f'There is no {_SEPARATOR.join(path[:i + 1])!r} in these '
                      f'parameters; at that place stands {here}.')
    tree = tree[key]
  return tree


def named(tree: Any, name: str) -> Any:
  """Returns the subtree at a name such as `encoder/conv0`."""
  return at(tree, name.split(_SEPARATOR))


def flatten(tree: Any) -> dict[str, Any]:
  """Returns the leaves by path, such as `conv0/kernel`.

  Dicts, lists, tuples, NamedTuples and registered dataclasses may be nested.
  """
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {path_name(path): leaf for path, leaf in leaves}


def path_name(path: Sequence[Any]) -> str:
  """Returns JAX's key path as text, such as `conv0/kernel`."""
  return jax.tree_util.keystr(tuple(path), simple=True, separator=_SEPARATOR)


def nest(leaves: Mapping[str, Any]) -> dict[str, Any]:
  """Returns nested dicts, the inverse of `flatten` for trees of dicts.

  Raises:
    UserError: where one name is both a leaf and a group.
  """
  tree: dict[str, Any] = {}
  for name, leaf in leaves.items():
    *groups, last = name.split(_SEPARATOR)
    node = tree
    for key in groups:
      node = node.setdefault(key, {})
      if not isinstance(node, dict):
        raise UserError(f'{name!r} stands inside an array of another name.')
    if last in node:
      raise UserError(f'{name!r} is both an array and a group of arrays.')
    node[last] = leaf
  return tree


def dot(a: Any, b: Any) -> jax.Array:
  """Returns the inner product of two trees."""
  return sum(jax.tree.leaves(jax.tree.map(jnp.vdot, a, b)), jnp.zeros(()))


def joiner(like: Any, below: int) -> tuple[Callable, Callable]:
  """Returns what makes one vector of a tree's small leaves, and its inverse.

  What is taken leaf by leaf, such as a norm, is then a few loops to compile
  instead of a few for each scale and bias.

  Args:
    like: a tree of arrays or shapes.
    below: leaves of fewer entries are small, if of the first one's type.

  Returns:
    `join(tree) -> [vector, *other leaves]`, `split(joined) -> tree`.
  """
  leaves, structure = jax.tree.flatten(like)
  joins = [leaf.size < below and leaf.dtype == leaves[0].dtype
           for leaf in leaves]
  small = [leaf for leaf, own in zip(leaves, joins, strict=True) if own]

  def join(tree):
    own = list(zip(jax.tree.leaves(tree), joins, strict=True))
    rows = [jnp.ravel(leaf) for leaf, joined in own if joined]
    vector = jnp.concatenate(rows) if rows else jnp.zeros(0)
    return [vector, *(leaf for leaf, joined in own if not joined)]

  def split(joined):
    vector, *others = joined
    parts = jax.lax.split(vector, [leaf.size for leaf in small])
    rows = iter([part.reshape(leaf.shape)
                 for part, leaf in zip(parts, small, strict=True)])
    rest = iter(others)
    return jax.tree.unflatten(
        structure, [next(rows if own else rest) for own in joins])
  return join, split


def to_float64(tree: Any) -> Any:
  """Returns NumPy float64 leaves."""
  return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def take(tree: Any, index: Any) -> Any:
  """Returns each leaf's rows `index`."""
  return jax.tree.map(lambda leaf: leaf[index], tree)


def stack(trees: Sequence[Any]) -> Any:
  """Returns equal trees as one, with a new first axis, as NumPy arrays."""
  return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def num_entries(tree: Any) -> int:
  """Returns how many numbers a tree of arrays or shapes holds."""
  return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))
