"""The loss that clients minimise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp
import optax

from vidleak_jax.types import Array

if TYPE_CHECKING:  # shapes for readers; the engine needs no such library
  from jaxtyping import Float, Int


def cross_entropy(
    logits: Float[Array, 'B K'], labels: Int[Array, ' B'] | Float[Array, 'B K']
) -> Float[Array, '']:
  """Returns the mean cross-entropy.

  Args:
    logits: [B, K].
    labels: [B] integers or [B, K] probabilities.
  """
  if jnp.issubdtype(labels.dtype, jnp.integer):
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  else:
    losses = optax.softmax_cross_entropy(logits, labels)
  return jnp.mean(losses)
