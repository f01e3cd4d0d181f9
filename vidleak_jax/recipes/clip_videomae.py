"""A real video, one gradient for the whole clip, through VideoMAE's network.

  vidleak attack --config=clip_videomae:small \
      --workdir=runs/videomae --config.data.dir=FOLDER_OR_VIDEO
"""

from vidleak_jax.recipes import clip_c3d


def get_config(preset='small'):
  attack = 'ig' if preset == 'full' else 'closed_form'
  config = clip_c3d.of('videomae', preset, attack, {'small': (8, 64)})
  config.attack.closed_form.polish_steps = 0  # it would cost minutes
  # Seconds a step: tokens that the plain search leaves misplaced find home.
  config.attack.closed_form.sharpen_steps = 45
  return config
