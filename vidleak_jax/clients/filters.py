"""The privacy filters that NVFlare and Flower ship, as optax transforms.

Each keeps shapes and dtypes. Formulas were read in NVFlare 2.9.0
(`app_common/filters`) and Flower 1.42.0 (`clientapp/mod/localdp_mod.py`).
"""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from vidleak_jax.clients.compression import entry_sizes, random_per_leaf
from vidleak_jax.clients.ranges import Strength, require
from vidleak_jax.types import Array, PRNGKey, UserError


def nvflare_percentile(
    percentile: Strength = 10, gamma: Strength = 0.01, num_steps: int = 1
) -> optax.GradientTransformation:
  """NVFlare's `PercentilePrivacy`: equal to it bit by bit.

  The entries of all leaves whose magnitude lies below the percentile of all
  magnitudes become 0; the others are clipped to +-gamma and otherwise shared as
  they are. Scalars pass unchanged, though they count for the percentile.

  Args:
    percentile: in [0, 100].
    gamma: above 0.
    num_steps: local steps that the update is divided by before, and multiplied
      with after.

  Raises:
    UserError: a strength is out of range. (NVFlare shares nothing then.)
  """
  require('nvflare_percentile', percentile, 0, 100)
  require('nvflare_gamma', gamma, 0, above=True)
  require('num_steps', num_steps, 1, whole=True)

  def update(updates, params):
    del params
    updates = jax.tree.map(lambda leaf: _divide(leaf, num_steps), updates)
    cutoff = _percentile(entry_sizes(updates), percentile)

    def one(leaf):
      if leaf.ndim:
        small = (leaf > -cutoff) & (leaf < cutoff)
        leaf = jnp.clip(jnp.where(small, 0, leaf), -gamma, gamma)
      return leaf * num_steps
    return jax.tree.map(one, updates)
  return optax.stateless(update)


def _percentile(values: Array, percentile: Strength) -> Array:
  """`numpy.percentile` of a vector, with NumPy's own rounding."""
  place = (values.size - 1) * _divide(
      jnp.asarray(percentile, values.dtype), 100)
  below = jnp.floor(place)
  weight = place - below
  index = jnp.clip(below.astype(jnp.int32), 0, values.size - 1)
  ordered = jnp.sort(values)
  low, high = ordered[index], ordered[jnp.minimum(index + 1, values.size - 1)]
  return jnp.where(weight < 0.5, low + (high - low) * weight,
                   high - (high - low) * (1 - weight))


def _divide(values: Array, by: int) -> Array:
  """The quotient rounded once: XLA would multiply with a reciprocal."""
  return values / jax.lax.optimization_barrier(
      jnp.full(values.shape, by, values.dtype))


class SVTOptions(NamedTuple):
  """Strengths of `svt_privacy`, with NVFlare's names and defaults."""
  fraction: float = 0.1   # of the entries to share
  epsilon: float = 0.1    # of the selection: threshold and queries
  noise_var: float = 0.1  # epsilon of the release, for each shared entry
  gamma: float = 1e-5     # magnitudes are clipped to it
  tau: float = 1e-6       # threshold
  replace: bool = True    # whether an entry can be drawn twice


def svt_privacy(
    key: PRNGKey, options: SVTOptions | None = None
) -> optax.GradientTransformation:
  """NVFlare's `SVTPrivacy` (sparse vector technique), equal in distribution.

  Entries whose clipped magnitude plus Laplace noise exceeds a noisy threshold
  are accepted, in passes, until there are enough; a random choice of them is
  clipped to +-gamma and shared with Laplace noise. All others are 0.

  Args:
    key: consumed.
    options: Python numbers, as they decide shapes; None for the defaults.

  Raises:
    UserError: a strength is out of range.
  """
  options = options or SVTOptions()
  require('svt_fraction', options.fraction, 0, 1)
  for name in ('epsilon', 'noise_var', 'gamma'):
    require(f'svt_{name}', getattr(options, name), 0, above=True)
  require('svt_tau', options.tau)

  def init(params):
    del params
    return key

  def update(updates, key, params=None):
    del params
    key, now = jax.random.split(key)
    flat, restore = ravel_pytree(updates)
    sent = restore(jnp.asarray(_svt(flat, now, options)))
    sent = jax.tree.map(
        lambda new, old: new if old.ndim else old, sent, updates)
    return sent, key
  return optax.GradientTransformation(init, update)


def _svt(values: Array, key: PRNGKey, options: SVTOptions) -> Array:
  count = math.ceil(values.size * options.fraction)
  if not count:
    return jnp.zeros_like(values)
  # The standard split of epsilon: threshold to queries as 1 to (2 c)^(2/3).
  threshold_epsilon = options.epsilon / (1 + (2 * count) ** (2 / 3))
  gamma, query_epsilon = options.gamma, options.epsilon - threshold_epsilon
  key, draw, noise, chosen = jax.random.split(key, 4)
  threshold = options.tau + gamma / threshold_epsilon * jax.random.laplace(draw)
  clipped = jnp.clip(values, -gamma, gamma)

  def accept(carry):
    accepted, key = carry
    key, now = jax.random.split(key)
    answer = jnp.abs(clipped) + (2 * gamma * count / query_epsilon
                                 ) * jax.random.laplace(now, values.shape)
    return accepted | (answer >= threshold), key

  accepted, _ = jax.lax.while_loop(
      lambda carry: jnp.sum(carry[0]) < count, accept,
      (jnp.zeros(values.shape, bool), key))
  if options.replace:
    ranks = jax.random.randint(chosen, (count,), 0, jnp.sum(accepted)) + 1
    index = jnp.searchsorted(jnp.cumsum(accepted), ranks)
  else:
    lot = jax.random.uniform(chosen, values.shape)
    index = jax.lax.top_k(jnp.where(accepted, lot, -1), count)[1]
  scale = 2 * gamma / options.noise_var
  shared = clipped[index] + scale * jax.random.laplace(noise, (count,))
  return jnp.zeros_like(values).at[index].set(shared.astype(values.dtype))


def exclude_vars(
    patterns: str | Sequence[str]
) -> optax.GradientTransformation:
  """NVFlare's `ExcludeVars`: some leaves are not sent; here they are 0.

  Args:
    patterns: a list of whole names such as 'conv0/kernel', or one string, a
      regular expression that is searched in the names.

  Raises:
    UserError: the expression cannot be read, or, when an update comes, a
      pattern fits no leaf.
  """
  names: tuple[str, ...] = ()
  expression = None
  try:
    if isinstance(patterns, str):
      expression = re.compile(patterns)
    else:
      names = tuple(patterns)
  except re.error as error:
    raise UserError(f'exclude_vars is {patterns!r}, which is no regular '
                    f'expression: {error}.') from None

  def is_out(name):
    if expression is None:
      return name in names
    return bool(patterns) and bool(expression.search(name))

  def update(updates, params):
    del params
    known = leaf_names(updates)
    unknown = set(names) - set(known)
    if unknown or (patterns and not any(map(is_out, known))):
      raise UserError(f'exclude_vars {sorted(unknown) or patterns!r} fits no '
                      f'leaf. There are: {", ".join(known)}.')
    leaves, tree = jax.tree.flatten(updates)
    return jax.tree.unflatten(tree, [
        jnp.zeros_like(leaf) if is_out(name) else leaf
        for name, leaf in zip(known, leaves)])
  return optax.stateless(update)


def leaf_names(tree) -> tuple[str, ...]:
  """The paths of a tree's leaves, in its order, such as 'conv0/kernel'."""
  return tuple(
      jax.tree_util.keystr(path, simple=True, separator='/')
      for path, _ in jax.tree_util.tree_leaves_with_path(tree))


def local_dp_std(
    sensitivity: Strength, epsilon: Strength, delta: Strength
) -> Strength:
  """Flower's `sensitivity sqrt(2 ln(1.25 / delta)) / epsilon`."""
  log = np.log if isinstance(delta, float | int) else jnp.log
  return sensitivity * (2 * log(1.25 / delta)) ** 0.5 / epsilon


def local_dp_mod(
    clipping_norm: Strength, sensitivity: Strength, epsilon: Strength,
    delta: Strength, key: PRNGKey,
) -> optax.GradientTransformation:
  """Flower's `LocalDpMod`: clips the update, adds N(0, std^2) to every entry.

  The std is `local_dp_std`. It does not depend on `clipping_norm`: only with
  `sensitivity = 2 clipping_norm` (one update against another; 1 times for
  against none) is the update (epsilon, delta) private, for epsilon below 1.
  Flower adds the update to the parameters first, so there its entries are
  rounded as float32 parameters are; not here.

  Args:
    clipping_norm: above 0, of the whole update.
    sensitivity: at least 0; 0 adds no noise.
    epsilon: above 0.
    delta: in (0, 1].
    key: consumed.

  Raises:
    UserError: a strength is out of range.
  """
  require('clipping_norm', clipping_norm, 0, above=True)
  require('sensitivity', sensitivity, 0)
  require('epsilon', epsilon, 0, above=True)
  require('delta', delta, 0, 1, above=True)
  std = local_dp_std(sensitivity, epsilon, delta)

  def clip(updates, params):
    del params
    norm = optax.tree.norm(updates)
    scale = jnp.minimum(1, clipping_norm / jnp.where(norm > 0, norm, 1))
    return jax.tree.map(lambda leaf: leaf * scale.astype(leaf.dtype), updates)

  def noisy(leaf, key):
    return leaf + std * jax.random.normal(key, leaf.shape, leaf.dtype)
  return optax.chain(optax.stateless(clip), random_per_leaf(noisy, key))
