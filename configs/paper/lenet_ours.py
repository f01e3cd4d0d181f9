"""Ours: the closed form, then a short polish in float64.

  python launch/attack.py --config=configs/paper/lenet_ours.py \
      --workdir=runs/lenet_ours --config.data.dir=FOLDER_OR_VIDEO
"""

from vidleak_jax.recipes.paper.lenet_ours import get_config

__all__ = ['get_config']
