"""No attack: true frames, shrunk to 32x32, enhanced to 128x128, scored.

  python launch/attack.py --config=configs/superres_frames.py \
      --workdir=runs/frames --config.data.dir=FOLDER_OR_VIDEO
"""

from vidleak_jax.recipes.superres_frames import get_config

__all__ = ['get_config']
