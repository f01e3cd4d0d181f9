"""From a linen module to a `Victim`, and the classification loss."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from vidleak_jax.types import Array, Layer, Params, Tokens, Victim


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
    tokens: Tokens | None = None,
    dropout: bool = False,
) -> Victim:
  """A victim whose params are what the module's `init` returns.

  Args:
    module: maps clips [B, T, H, W, C] in [0, 1] to logits [B, K].
    clip_shape: (T, H, W, C).
    num_classes: K.
    head: path of the last dense layer in the params.
    layers: the layers in order, where the closed form applies.
    tokens: of a transformer, where its closed form applies.
    dropout: whether the module takes `deterministic` and a 'dropout' key.
  """

  def init(key):
    variables = module.init(key, jnp.zeros((1, *clip_shape)))
    stats = variables.get('batch_stats')
    return variables['params'] | ({'batch_stats': stats} if stats else {})

  def logits(params, clips):
    return module.apply(split_stats(params), clips)

  def loss(params, clips, labels, key=None):
    if key is None or not dropout:
      return cross_entropy(logits(params, clips), labels)
    scores = module.apply(split_stats(params), clips, deterministic=False,
                          rngs={'dropout': key})
    return cross_entropy(scores, labels)

  def statistics(params, clips):
    _, state = module.apply(split_stats(params), clips, mutable='batch_stats')
    return params | state

  return Victim(jax.jit(init), logits, loss, num_classes, head, layers, tokens,
                statistics)


def split_stats(params: Params) -> dict[str, Params]:
  """A victim's params as the module's collections; statistics are constants."""
  params = dict(params)
  stats = jax.lax.stop_gradient(params.pop('batch_stats', {}))
  return {'params': params, 'batch_stats': stats}
