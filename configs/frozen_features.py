"""Frames through a frozen ResNet-20 whose head alone shares its gradient.

  python launch/attack.py --config=configs/frozen_features.py \
      --workdir=runs/features --config.attack.num_references=5 \
      --config.victim.head=classifier2 --config.victim.dropout_active=true
"""

from vidleak_jax.recipes.frozen_features import get_config

__all__ = ['get_config']
