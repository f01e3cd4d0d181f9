"""Trains C3D to tell the ten camera motions of `photo_motion` apart.

  python launch/train_victim.py --config=configs/train_c3d.py --workdir=runs/c3d
"""

from vidleak_jax.recipes.train_c3d import get_config

__all__ = ['get_config']
