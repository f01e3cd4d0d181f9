"""What the client does to the gradient before sharing: optax transforms.

Each keeps shapes and dtypes. With its strength at 0 a defence is left out.
"""

import jax
import jax.numpy as jnp
import optax

from vidleak_jax.types import PRNGKey, is_off


def build(
    key: PRNGKey, *, clip_norm: float = 0.0, noise_std: float = 0.0,
    prune_fraction: float = 0.0, quantize_bits: int = 0,
) -> optax.GradientTransformation:
  """The chain clip -> noise -> prune -> quantize, without those at 0."""
  chain = []
  if not is_off(clip_norm):
    chain.append(optax.clip_by_global_norm(clip_norm))
  if not is_off(noise_std):
    chain.append(gaussian_noise(noise_std, key))
  if not is_off(prune_fraction):
    chain.append(prune(prune_fraction))
  if not is_off(quantize_bits):
    chain.append(quantize(quantize_bits))
  return optax.chain(*chain) if chain else optax.identity()


def gaussian_noise(std: float, key: PRNGKey) -> optax.GradientTransformation:
  """Adds N(0, std^2) to every entry; after clipping this is DP-SGD's noise."""

  def init(params):
    del params
    return key

  def update(updates, key, params=None):
    del params
    key, now = jax.random.split(key)
    leaves, tree = jax.tree.flatten(updates)
    keys = jax.random.split(now, len(leaves))
    noisy = [leaf + std * jax.random.normal(k, leaf.shape, leaf.dtype)
             for leaf, k in zip(leaves, keys)]
    return jax.tree.unflatten(tree, noisy), key

  return optax.GradientTransformation(init, update)


def prune(fraction: float) -> optax.GradientTransformation:
  """Zeroes the smallest `fraction` of each leaf by magnitude (1712.01887)."""

  def one(leaf):
    size = jnp.abs(leaf)
    return jnp.where(size >= jnp.quantile(size, fraction), leaf, 0.0)
  return optax.stateless(lambda updates, params: jax.tree.map(one, updates))


def quantize(bits: int) -> optax.GradientTransformation:
  """Rounds each leaf to 2^bits - 1 levels, symmetric about 0."""
  levels = jnp.maximum(1.0, 2.0 ** (bits - 1) - 1)  # bits may be traced

  def one(leaf):
    scale = jnp.max(jnp.abs(leaf)) / levels
    safe = jnp.where(scale > 0, scale, 1.0)
    return jnp.round(leaf / safe) * scale
  return optax.stateless(lambda updates, params: jax.tree.map(one, updates))
