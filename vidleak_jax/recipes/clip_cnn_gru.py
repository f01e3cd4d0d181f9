"""A real video, one gradient for the whole clip, through frame CNNs and a GRU.

  vidleak attack --config=clip_cnn_gru:small \
      --workdir=runs/cnn_gru --config.data.dir=FOLDER_OR_VIDEO
"""

from vidleak_jax.recipes import clip_c3d


def get_config(preset='small'):
  return clip_c3d.of('cnn_gru', preset)
