"""A real video, one gradient for the whole clip, through a ViViT.

  vidleak attack --config=clip_vivit:small \
      --workdir=runs/vivit --config.data.dir=FOLDER_OR_VIDEO

Its learned positions give the clip away by linear algebra alone; a polish would
cost minutes and has nothing left to mend where N <= D.
"""

from vidleak_jax.recipes import clip_c3d


def get_config(preset='small'):
  return clip_c3d.of('vivit', preset, {'small': (16, 64)})
