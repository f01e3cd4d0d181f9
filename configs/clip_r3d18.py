"""A real video, one gradient for the whole clip, through R3D-18.

  python launch/attack.py --config=configs/clip_r3d18.py:small \
      --workdir=runs/r3d18 --config.data.dir=FOLDER_OR_VIDEO
"""

from vidleak_jax.recipes.clip_r3d18 import get_config

__all__ = ['get_config']
