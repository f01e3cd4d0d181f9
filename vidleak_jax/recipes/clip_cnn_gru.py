"""A real video, one gradient for the whole clip, through frame CNNs and a GRU.

  vidleak attack --config=clip_cnn_gru:small \
      --workdir=runs/cnn_gru --config.data.dir=FOLDER_OR_VIDEO
"""

from vidleak_jax.recipes import clip_c3d


def get_config(preset='small'):
  config = clip_c3d.of('cnn_gru', preset)
  if preset == 'full':  # a dense layer on each frame, which is not listed
    config.attack.name = 'ig'
  return config
