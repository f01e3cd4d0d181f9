"""A real video, one gradient for the whole clip, through VideoMAE's network.

  python launch/attack.py --config=configs/clip_videomae.py:small \
      --workdir=runs/videomae --config.data.dir=FOLDER_OR_VIDEO
"""

from configs import clip_c3d


def get_config(preset='small'):
  return clip_c3d.of('videomae', preset, 'ig', {'small': (8, 64)})
