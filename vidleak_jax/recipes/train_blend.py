"""Trains the blend that turns features and reference frames into frames.

  vidleak train blend --config=train_blend \
      --workdir=runs/blend

makes attacks/features/blend_photo_motion.safetensors, in 140 s of CPU time, and
with --config.victim.weights_file=FILE what suits another extractor: so for the
ResNet-20 of CIFAR-10 blend_cifar10.safetensors.
"""

from ml_collections import ConfigDict

from vidleak_jax.attacks.features.train import BlendSpec
from vidleak_jax.recipes import to_config


def get_config() -> ConfigDict:
  """Returns every field of the training."""
  return to_config(BlendSpec())
