"""A real video, one gradient for the whole clip, through a ViViT.

  python launch/attack.py --config=configs/clip_vivit.py:small \
      --workdir=runs/vivit --config.data.dir=FOLDER_OR_VIDEO
"""

from vidleak_jax.recipes.clip_vivit import get_config

__all__ = ['get_config']
