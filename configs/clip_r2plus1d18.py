"""A real video, one gradient for the whole clip, through R(2+1)D-18.

  python launch/attack.py --config=configs/clip_r2plus1d18.py:small \
      --workdir=runs/r2plus1d18 --config.data.dir=FOLDER_OR_VIDEO
"""

from configs import clip_c3d


def get_config(preset='small'):
  return clip_c3d.of('r2plus1d18', preset, 'ig')
