"""From a linen module to a `Victim`, and the classification loss."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from vidleak_jax.types import Array, Layer, Victim


def cross_entropy(logits: Array, labels: Array) -> Array:
  """Mean cross-entropy.

  Args:
    logits: [B, K].
    labels: [B] integers or [B, K] probabilities.
  """
  if jnp.issubdtype(labels.dtype, jnp.integer):
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  else:
    losses = optax.softmax_cross_entropy(logits, labels)
  return jnp.mean(losses)


def from_module(
    module: nn.Module,
    clip_shape: Sequence[int],
    num_classes: int,
    *,
    head: tuple[str, ...] = ('head',),
    layers: tuple[Layer, ...] = (),
) -> Victim:
  """A victim whose params are the module's 'params' collection.

  Args:
    module: maps clips [B, T, H, W, C] in [0, 1] to logits [B, K].
    clip_shape: (T, H, W, C).
    num_classes: K.
    head: path of the last dense layer in the params.
    layers: the layers in order, where the closed form applies.
  """

  def init(key):
    return module.init(key, jnp.zeros((1, *clip_shape)))['params']

  def logits(params, clips):
    return module.apply({'params': params}, clips)

  def loss(params, clips, labels, key=None):
    del key  # no dropout here
    return cross_entropy(logits(params, clips), labels)

  return Victim(jax.jit(init), logits, loss, num_classes, head, layers)
