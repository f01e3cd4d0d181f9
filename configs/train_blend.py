"""Trains the blend that turns features and reference frames into frames.

  python launch/train_blend.py --config=configs/train_blend.py \
      --workdir=runs/blend
"""

from vidleak_jax.recipes.train_blend import get_config

__all__ = ['get_config']
