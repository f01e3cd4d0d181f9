"""Trains the ResNet-20 that configs/frozen_features.py freezes.

  python launch/train_victim.py --config=configs/train_extractor.py \
      --workdir=runs/extractor
"""

from vidleak_jax.recipes.train_extractor import get_config

__all__ = ['get_config']
