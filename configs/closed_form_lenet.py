"""Frames through LeNet without iterating on pixels, then a short polish.

  python launch/attack.py --config=configs/closed_form_lenet.py \
      --workdir=runs/closed_lenet --config.data.dir=FOLDER_OR_VIDEO
"""

from vidleak_jax.recipes.closed_form_lenet import get_config

__all__ = ['get_config']
