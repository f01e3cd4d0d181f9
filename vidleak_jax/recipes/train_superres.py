"""Trains the small network that the package ships.

  vidleak train superres --config=train_superres \
      --workdir=runs/superres
"""

from ml_collections import ConfigDict

from vidleak_jax.recipes import to_config
from vidleak_jax.superres.spec import TrainingSpec


def get_config() -> ConfigDict:
  """Returns every field of super-resolution training."""
  return to_config(TrainingSpec())
