"""A real video, one gradient for the whole clip, through frame CNNs and a GRU.

  python launch/attack.py --config=configs/clip_cnn_gru.py:small \
      --workdir=runs/cnn_gru --config.data.dir=FOLDER_OR_VIDEO
"""

from vidleak_jax.recipes.clip_cnn_gru import get_config

__all__ = ['get_config']
