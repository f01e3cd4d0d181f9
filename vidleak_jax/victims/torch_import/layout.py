"""Torch's flat parameters as a tree in Flax's layout, and back."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from vidleak_jax import trees
from vidleak_jax.types import Params

_STATISTICS = {'running_mean': 'mean', 'running_var': 'var'}


def flax_layout(flat: Params) -> tuple[Params, Callable[[Params], Params]]:
  """Returns (tree, back): kernels end in [in, out]; back is the inverse.

  Args:
    flat: {dotted name: array}, running statistics under 'batch_stats'.
  """
  places = {}  # torch's name -> (path, axes) for parameters and statistics
  leaves = {}
  groups = {'': flat, 'batch_stats': flat.get('batch_stats', {})}
  for group, named in groups.items():
    for name, leaf in named.items():
      if name == 'batch_stats':
        continue
      path, axes = _place(name, np.ndim(leaf))
      path = f'{group}/{path}' if group else path
      places[group, name] = path, axes
      leaves[path] = jnp.transpose(leaf, axes)
  tree = trees.nest(leaves)

  def back(tree):
    found = trees.flatten(tree)
    flat, statistics = {}, {}
    for (group, name), (path, axes) in places.items():
      leaf = jnp.transpose(found[path], np.argsort(axes))
      (statistics if group else flat)[name] = leaf
    return flat | ({'batch_stats': statistics} if statistics else {})

  return tree, back


def _place(name: str, ndim: int) -> tuple[str, tuple[int, ...]]:
  """Where a parameter stands in the tree, and in which order of axes."""
  *module, leaf = name.split('.')
  axes = tuple(range(ndim))
  if leaf == 'weight' and ndim > 1:  # [out, in, ...] -> [..., in, out]
    leaf, axes = 'kernel', (*range(2, ndim), 1, 0)
  elif leaf == 'weight':
    leaf = 'scale'
  return '/'.join([*module, _STATISTICS.get(leaf, leaf)]), axes
