"""A real video, one gradient for the whole clip, through a TimeSformer.

  vidleak attack --config=clip_timesformer:small \
      --workdir=runs/timesformer --config.data.dir=FOLDER_OR_VIDEO
"""

from vidleak_jax.recipes import clip_c3d


def get_config(preset='small'):
  attack = 'ig' if preset == 'full' else 'closed_form'
  config = clip_c3d.of('timesformer', preset, attack, {'small': (8, 64)})
  config.attack.closed_form.polish_steps = 0  # it would cost minutes
  return config
