"""What generators and discriminators are trained on; scalars, lower is better.
"""

import flax.linen as nn
import jax.numpy as jnp

from vidleak_jax.types import Array


def l1(frames: Array, truth: Array) -> Array:
  """Mean absolute error."""
  return jnp.mean(jnp.abs(frames - truth))


def discriminator_loss(real: Array, fake: Array) -> Array:
  """Relativistic average GAN (1807.00734), from logits of one batch."""
  return (_bce(real - fake.mean(), 1.0) + _bce(fake - real.mean(), 0.0)) / 2


def generator_loss(real: Array, fake: Array) -> Array:
  """The same, seen from the other side."""
  return (_bce(real - fake.mean(), 0.0) + _bce(fake - real.mean(), 1.0)) / 2


def perceptual(features, frames: Array, truth: Array) -> Array:
  """Weighted L1 between features before their activation (1809.00219).

  Args:
    features: from `perceptual.features`: frames -> [(weight, array), ...].
    frames: [B, H, W, 3].
    truth: same shape.
  """
  return sum(weight * l1(a, b) for (weight, a), (_, b)
             in zip(features(frames), features(truth)))


def _bce(logits, target):
  """Binary cross-entropy against one target for all."""
  return jnp.mean(nn.softplus(logits) - target * logits)
