"""Trains the perceptual network that the package ships, from the faithful one.

  python launch/train_superres.py --config=configs/train_superres_gan.py \
      --workdir=runs/perceptual
"""

from vidleak_jax.recipes.train_superres_gan import get_config

__all__ = ['get_config']
