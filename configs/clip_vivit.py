"""A real video, one gradient for the whole clip, through a ViViT.

  python launch/attack.py --config=configs/clip_vivit.py:small \
      --workdir=runs/vivit --config.data.dir=FOLDER_OR_VIDEO

Its learned positions give the clip away by linear algebra alone.
"""

from configs import clip_c3d


def get_config(preset='small'):
  return clip_c3d.of('vivit', preset, 'closed_form', {'small': (16, 64)})
