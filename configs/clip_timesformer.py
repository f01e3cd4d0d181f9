"""A real video, one gradient for the whole clip, through a TimeSformer.

  python launch/attack.py --config=configs/clip_timesformer.py:small \
      --workdir=runs/timesformer --config.data.dir=FOLDER_OR_VIDEO
"""

from configs import clip_c3d


def get_config(preset='small'):
  return clip_c3d.of('timesformer', preset, 'ig', {'small': (8, 64)})
