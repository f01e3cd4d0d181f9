"""A whole clip through 3-D convolutions, layer by layer, by linear algebra.

  python launch/attack.py --config=configs/closed_form_clip.py \
      --workdir=runs/closed_clip --config.data.dir=FOLDER_OR_VIDEO
"""

from vidleak_jax.recipes.closed_form_clip import get_config

__all__ = ['get_config']
