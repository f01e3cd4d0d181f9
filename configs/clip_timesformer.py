"""A real video, one gradient for the whole clip, through a TimeSformer.

  python launch/attack.py --config=configs/clip_timesformer.py:small \
      --workdir=runs/timesformer --config.data.dir=FOLDER_OR_VIDEO
"""

from vidleak_jax.recipes.clip_timesformer import get_config

__all__ = ['get_config']
