"""A real video, one gradient for the whole clip, through frame CNNs and a GRU.

  python launch/attack.py --config=configs/clip_cnn_gru.py:small \
      --workdir=runs/cnn_gru --config.data.dir=FOLDER_OR_VIDEO
"""

from configs import clip_c3d


def get_config(preset='small'):
  return clip_c3d.of('cnn_gru', preset, 'ig')
