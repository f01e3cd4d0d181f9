"""A real video, one gradient for the whole clip, through C3D.

  python launch/attack.py --config=configs/clip_c3d.py --workdir=runs/c3d \
      --config.data.dir=FOLDER_OR_VIDEO
"""

from vidleak_jax.recipes.clip_c3d import get_config

__all__ = ['get_config']
