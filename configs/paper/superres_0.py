"""Recovered frames enlarged 32 -> 128, with no reference frame of the scene.

  python launch/attack.py --config=configs/paper/superres_0.py \
      --workdir=runs/superres_0 --config.data.dir=FOLDER_OR_VIDEO
"""

from vidleak_jax.recipes.paper.superres_0 import get_config

__all__ = ['get_config']
