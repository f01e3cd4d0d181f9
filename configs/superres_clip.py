"""Attack at 32x32, then enhance to 128x128.

  python launch/attack.py --config=configs/superres_clip.py --workdir=runs/sr \
      --config.data.dir=FOLDER_OR_VIDEO --config.superres.num_references=1
"""

from vidleak_jax.recipes.superres_clip import get_config

__all__ = ['get_config']
