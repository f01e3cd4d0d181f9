"""Clipping and noise for each example: the gradient that DP-SGD shares."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from vidleak_jax.clients.base import Client, Loss
from vidleak_jax.clients.ranges import Strength, require
from vidleak_jax.specs import DpSgdSpec
from vidleak_jax.types import Array, Params, PRNGKey, UserError, is_off


def update_of(
    client: Client, spec: DpSgdSpec, loss: Loss, params: Params, clips: Array,
    labels: Array, *, noise_key: PRNGKey, dropout_key: PRNGKey | None = None,
    **order: Array,
) -> Params:
  """Returns a client's update before any filter: its own, or DP-SGD's.

  Args:
    client: computes an update without DP-SGD.
    spec: of DP-SGD; off where its clipping norm is a plain 0.
    loss: the victim's.
    params: the weights.
    clips: [B, T, H, W, C].
    labels: [B] int32.
    noise_key: of DP-SGD; consumed.
    dropout_key: switches dropout on; consumed.
    **order: of the minibatches, for a client that shuffles them.

  Raises:
    UserError: DP-SGD of a client that does not send one gradient.
  """
  if is_off(spec.clip_norm):
    return client.update(loss, params, clips, labels, dropout_key, **order)
  if client.to_spec().algorithm != 'fedsgd':
    raise UserError(
        'defense.dp_sgd needs federated.algorithm=fedsgd, got '
        f'{client.to_spec().algorithm}. For a weight change set '
        'defense.clip_norm and noise_std, or local_dp.')
  return dp_sgd_gradient(
      loss, params, clips, labels, noise_key, clip_norm=spec.clip_norm,
      noise_multiplier=spec.noise_multiplier, dropout_key=dropout_key)


def dp_sgd_gradient(
    loss: Callable[..., Array], params: Params, clips: Array, labels: Array,
    key: PRNGKey, *, clip_norm: Strength, noise_multiplier: Strength,
    dropout_key: PRNGKey | None = None,
) -> Params:
  """The private mean gradient of a batch (1607.00133, algorithm 1).

      (1/B) (sum_b g_b min(1, C / |g_b|) + C sigma N(0, 1))

  with g_b the gradient of one clip alone, as jax_privacy's `clipped_grad` and
  Opacus' `DPOptimizer` compute it (the latter divides by |g_b| + 1e-6). A
  gradient that is not finite counts as 0, so the sensitivity of the sum to one
  clip is C whatever comes.

  Args:
    loss: `(params, clips, labels, key) -> []`, the mean over a batch; without
      layers that mix the clips of a batch, such as BatchNorm in train mode.
    params: the weights.
    clips: [B, T, H, W, C].
    labels: [B] int32.
    key: of the noise; consumed.
    clip_norm: C, above 0.
    noise_multiplier: sigma, at least 0.
    dropout_key: switches dropout on; each clip has a mask of its own.

  Returns:
    The tree of params.

  Raises:
    UserError: a strength is out of range.
  """
  require('clip_norm', clip_norm, 0, above=True)
  require('noise_multiplier', noise_multiplier, 0)
  batch_size = len(clips)

  def add_example(total, example):
    index, clip, label = example
    mask = None
    if dropout_key is not None:
      mask = jax.random.fold_in(dropout_key, index)
    grad = jax.grad(loss)(params, clip[None], label[None], mask)
    grad = jax.tree.map(
        lambda leaf: jnp.nan_to_num(leaf, posinf=0.0, neginf=0.0), grad)
    norm = optax.tree.norm(grad)
    factor = jnp.minimum(1, clip_norm / jnp.where(norm > 0, norm, 1))
    return jax.tree.map(lambda t, g: t + factor * g, total, grad), None

  # One after the other: vmapped weight gradients of convolutions are slow.
  total, _ = jax.lax.scan(
      add_example, optax.tree.zeros_like(params),
      (jnp.arange(batch_size), clips, labels))
  leaves, tree = jax.tree.flatten(total)
  keys = jax.random.split(key, len(leaves))
  std = clip_norm * noise_multiplier
  return jax.tree.unflatten(tree, [
      (leaf + std * jax.random.normal(k, leaf.shape, leaf.dtype)) / batch_size
      for leaf, k in zip(leaves, keys)])
