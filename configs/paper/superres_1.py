"""Recovered frames enlarged 32 -> 128, with one reference frame of the scene.

  python launch/attack.py --config=configs/paper/superres_1.py \
      --workdir=runs/superres_1 --config.data.dir=FOLDER_OR_VIDEO
"""

from vidleak_jax.recipes.paper.superres_1 import get_config

__all__ = ['get_config']
