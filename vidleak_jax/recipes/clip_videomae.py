"""A real video, one gradient for the whole clip, through VideoMAE's network.

  vidleak attack --config=clip_videomae:small \
      --workdir=runs/videomae --config.data.dir=FOLDER_OR_VIDEO
"""

from vidleak_jax.recipes import clip_c3d


def get_config(preset='small'):
  config = clip_c3d.of('videomae', preset, {'small': (8, 64)})
  # Seconds a step: tokens that the plain search leaves misplaced find home.
  config.attack.subspace.sharpen_steps = 45
  return config
