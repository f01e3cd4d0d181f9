"""A real video, one gradient for the whole clip, through a TimeSformer.

  vidleak attack --config=clip_timesformer:small \
      --workdir=runs/timesformer --config.data.dir=FOLDER_OR_VIDEO
"""

from vidleak_jax.recipes import clip_c3d


def get_config(preset='small'):
  return clip_c3d.of('timesformer', preset, {'small': (8, 64)})
