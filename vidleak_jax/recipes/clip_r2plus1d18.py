"""A real video, one gradient for the whole clip, through R(2+1)D-18.

  vidleak attack --config=clip_r2plus1d18:small \
      --workdir=runs/r2plus1d18 --config.data.dir=FOLDER_OR_VIDEO
"""

from vidleak_jax.recipes import clip_r3d18


def get_config(preset='small'):
  return clip_r3d18.of('r2plus1d18', preset)
