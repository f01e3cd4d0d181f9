"""Trains the small network that the package ships.

  python launch/train_superres.py --config=configs/train_superres.py \
      --workdir=runs/superres
"""

from vidleak_jax.recipes.train_superres import get_config

__all__ = ['get_config']
