"""A real video, one gradient for the whole clip, through VideoMAE's network.

  python launch/attack.py --config=configs/clip_videomae.py:small \
      --workdir=runs/videomae --config.data.dir=FOLDER_OR_VIDEO
"""

from vidleak_jax.recipes.clip_videomae import get_config

__all__ = ['get_config']
