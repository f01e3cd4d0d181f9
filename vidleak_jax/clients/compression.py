"""Compression of an update that clients also use as a defence.

Each function returns an optax transform that keeps shapes and dtypes.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from vidleak_jax.clients.ranges import Strength, require
from vidleak_jax.types import Array, Params, PRNGKey, is_off


class ErrorFeedback(NamedTuple):
  """State of `top_k`."""
  residual: Params  # what was not sent yet, the tree of the update


def prune(fraction: Strength) -> optax.GradientTransformation:
  """Zeroes the smallest `fraction` of each leaf by magnitude (1712.01887).

  Args:
    fraction: in [0, 1]; 0 changes nothing.

  Raises:
    UserError: the fraction is out of range.
  """
  require('prune_fraction', fraction, 0, 1)

  def one(leaf):
    size = jnp.abs(leaf)
    return jnp.where(size >= jnp.quantile(size, fraction), leaf, 0.0)
  return optax.stateless(lambda updates, params: jax.tree.map(one, updates))


def quantize(bits: Strength) -> optax.GradientTransformation:
  """Rounds each leaf to 2^bits - 1 levels, symmetric about 0.

  The largest level is the leaf's own largest magnitude, so the step of the grid
  can be read off what is sent.

  Args:
    bits: 0 to 31; the Python number 0 changes nothing, 8 is "int8".

  Raises:
    UserError: the bits are out of range.
  """
  require('quantize_bits', bits, 0, 31, whole=True)
  if is_off(bits):
    return optax.identity()
  levels = jnp.maximum(1.0, 2.0 ** (bits - 1) - 1)  # bits may be traced

  def one(leaf):
    scale = jnp.max(jnp.abs(leaf)) / levels
    safe = jnp.where(scale > 0, scale, 1.0)
    return jnp.round(leaf / safe) * scale
  return optax.stateless(lambda updates, params: jax.tree.map(one, updates))


def top_k(
    fraction: Strength, error_feedback: bool = True
) -> optax.GradientTransformation:
  """Sends the largest `fraction` of all entries, the others as 0.

  Args:
    fraction: in (0, 1], of the entries of all leaves together, rounded up to a
      whole number of entries; 1 changes nothing. Ties are all sent.
    error_feedback: whether what was not sent is added to the next update
      (1809.07599, algorithm 1).

  Raises:
    UserError: the fraction is out of range.
  """
  require('topk_fraction', fraction, 0, 1, above=True)

  def init(params):
    return ErrorFeedback(optax.tree.zeros_like(params))

  def update(updates, state, params=None):
    del params
    if error_feedback:
      updates = jax.tree.map(jnp.add, updates, state.residual)
    sizes = jnp.sort(entry_sizes(updates))
    kept = jnp.ceil(fraction * sizes.size).astype(jnp.int32)
    least = sizes[sizes.size - jnp.clip(kept, 1, sizes.size)]
    sent = jax.tree.map(
        lambda leaf: jnp.where(jnp.abs(leaf) >= least, leaf, 0), updates)
    if error_feedback:
      state = ErrorFeedback(jax.tree.map(jnp.subtract, updates, sent))
    return sent, state
  return optax.GradientTransformation(init, update)


def qsgd(levels: Strength, key: PRNGKey) -> optax.GradientTransformation:
  """Rounds each leaf at random to `levels` fractions of its norm, unbiased.

  An entry v becomes `norm sign(v) l / levels`, where l is one of the two whole
  numbers beside `levels |v| / norm`, the nearer with the greater probability
  (1610.02132, section 3.1).

  Args:
    levels: at least 1; the Python number 0 changes nothing.
    key: consumed.

  Raises:
    UserError: the levels are out of range.
  """
  require('qsgd_levels', levels, 0, whole=True)
  if is_off(levels):
    return optax.identity()

  def one(leaf, key):
    norm = jnp.linalg.norm(leaf.ravel())
    place = levels * jnp.abs(leaf) / jnp.where(norm > 0, norm, 1)
    low = jnp.floor(place)
    up = jax.random.uniform(key, leaf.shape, leaf.dtype) < place - low
    return (norm * jnp.sign(leaf) * (low + up) / levels).astype(leaf.dtype)
  return random_per_leaf(one, key)


def sign(scaled: bool = False) -> optax.GradientTransformation:
  """Sends the sign of each entry (signSGD, 1802.04434).

  Args:
    scaled: whether each leaf is multiplied with its mean magnitude
      (1901.09847).
  """

  def one(leaf):
    return jnp.sign(leaf) * (jnp.mean(jnp.abs(leaf)) if scaled else 1)
  return optax.stateless(lambda updates, params: jax.tree.map(one, updates))


def entry_sizes(tree: Params) -> Array:
  """The magnitudes of all entries of a tree, one vector."""
  return jnp.concatenate([
      jnp.abs(leaf).ravel() for leaf in jax.tree.leaves(tree)])


def random_per_leaf(fn, key: PRNGKey) -> optax.GradientTransformation:
  """`fn(leaf, key)` on each leaf, with new keys in every update."""

  def init(params):
    del params
    return key

  def update(updates, key, params=None):
    del params
    key, now = jax.random.split(key)
    leaves, tree = jax.tree.flatten(updates)
    keys = jax.random.split(now, len(leaves))
    return jax.tree.unflatten(
        tree, [fn(*each) for each in zip(leaves, keys)]), key
  return optax.GradientTransformation(init, update)
