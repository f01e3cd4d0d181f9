"""A real video, one gradient for the whole clip, through a ViViT.

  vidleak attack --config=clip_vivit:small \
      --workdir=runs/vivit --config.data.dir=FOLDER_OR_VIDEO

Its learned positions give the clip away by linear algebra alone; a polish would
cost minutes and has nothing left to mend where N <= D.
"""

from vidleak_jax.recipes import clip_c3d


def get_config(preset='small'):
  config = clip_c3d.of('vivit', preset, 'closed_form', {'small': (16, 64)})
  config.attack.closed_form.polish_steps = 0
  return config
