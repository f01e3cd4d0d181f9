"""Recovered frames enlarged 32 -> 128, with five reference frames of the scene.

  python launch/attack.py --config=configs/paper/superres_5.py \
      --workdir=runs/superres_5 --config.data.dir=FOLDER_OR_VIDEO
"""

from vidleak_jax.recipes.paper.superres_5 import get_config

__all__ = ['get_config']
