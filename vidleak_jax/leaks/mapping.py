"""Arrays by a framework's names and axes, as a network's parameter tree.

Names and axes of gradients are those of the weights, so one mapping serves
both. Nothing is guessed: what fits no leaf by name and shape is listed.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence

import numpy as np

from vidleak_jax.models import weights
from vidleak_jax.models.weights import Names

Shapes = Mapping[str, tuple[int, ...]]  # of a tree, by path

STATISTICS = 'batch_stats/'
_PREFIXES = ('module.', '_orig_mod.', 'model.', 'net.', 'network.',
             'backbone.', 'params/')


@dataclasses.dataclass(frozen=True)
class Mapped:
  """What of some arrays found its place in a network.

  Attributes:
    matched: path in the parameters -> the array, in the network's axes.
    unmatched: 'name (shape)' of each array without a place, and why.
    missing: 'path (shape)' of each leaf without an array.
  """
  matched: dict[str, np.ndarray]
  unmatched: tuple[str, ...]
  missing: tuple[str, ...]


def match(
    arrays: Mapping[str, np.ndarray], shapes: Shapes, names: Names
) -> Mapped:
  """Returns the arrays by path.

  Args:
    arrays: by torch's, transformers' or the tree's own names.
    shapes: of the network's leaves.
    names: patterns from published names to paths, see `models.weights`.
  """
  tables = (names, ()) if names else ((),)
  tried = [_match(stripped, shapes, table)
           for stripped in _without_prefixes(arrays) for table in tables]
  return max(tried, key=lambda each: len(each.matched))


def from_list(
    arrays: Sequence[np.ndarray], layers: Sequence[str], shapes: Shapes
) -> Mapped | None:
  """Returns the arrays of a list by path, or None where no order fits.

  Args:
    arrays: torch's, in the order of the layers, or the tree's leaves in its own
      order and axes.
    layers: paths in the order of the layers.
    shapes: of the network's leaves, in the order of the tree.
  """
  for order, native in ((layers, False), (list(shapes), True)):
    for paths in (order, [p for p in order if not p.startswith(STATISTICS)]):
      if len(paths) != len(arrays):
        continue
      matched = {path: leaf for path, array in zip(paths, arrays, strict=True)
                 if (leaf := fitted(array, path, shapes[path], native)
                     ) is not None}
      if len(matched) == len(arrays):
        return Mapped(matched, (), _lacking(matched, shapes))
  return None


def fitted(
    array: np.ndarray, path: str, shape: tuple[int, ...], native: bool = False
) -> np.ndarray | None:
  """Returns an array in a leaf's axes, or None where it does not fit.

  Args:
    array: torch's, with outputs before inputs, or in the leaf's own axes.
    path: of the leaf.
    shape: of the leaf.
    native: whether the axes are those of the leaf, by its name.
  """
  if path.endswith('/kernel') and array.ndim > 1 and not native:
    array = np.transpose(array, (*range(2, array.ndim), 1, 0))
    if len(shape) == 2:  # a convolution that reads its input once: dense
      array = array.reshape(-1, array.shape[-1])
  return array if array.shape == tuple(shape) else None


def path_of(key: str, ndim: int, names: Names) -> str:
  """Returns the path of a published name."""
  return weights.rename(key, ndim, names)


def _match(arrays, shapes, names) -> Mapped:
  matched: dict[str, np.ndarray] = {}
  unmatched = []
  for key, array in weights.split_qkv(arrays).items():
    native = key if key in shapes else f'batch_stats/{key}'
    path = native if native in shapes else weights.rename(
        key, array.ndim, names)
    if path not in shapes:
      unmatched.append(f'{key} {array.shape}')
      continue
    leaf = fitted(array, path, shapes[path], path == native)
    if leaf is None:
      unmatched.append(f'{key} {array.shape}: {path} has {shapes[path]}')
    else:
      matched[path] = leaf
  return Mapped(matched, tuple(unmatched), _lacking(matched, shapes))


def _lacking(matched, shapes) -> tuple[str, ...]:
  return tuple(f'{path} {shape}' for path, shape in shapes.items()
               if path not in matched)


def _without_prefixes(arrays):
  """The arrays as they are, and without what wrappers put before names."""
  yield dict(arrays)
  for prefix in _PREFIXES:
    if arrays and all(key.startswith(prefix) for key in arrays):
      yield {re.sub(f'^{re.escape(prefix)}', '', key): array
             for key, array in arrays.items()}
