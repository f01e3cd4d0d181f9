"""A real video, one gradient for the whole clip, through C3D.

  vidleak attack --config=clip_c3d --workdir=runs/c3d \
      --config.data.dir=FOLDER_OR_VIDEO

`--config=clip_c3d:tiny`, `:small` and `:full` name the network's size, and with
it the clip's. So do the other recipes `clip_*`.
"""

from vidleak_jax.errors import UserError
from vidleak_jax.recipes import default

# preset -> frames, rows and columns
SIZES = {'tiny': (4, 16), 'small': (8, 32), 'full': (16, 112)}


def get_config(preset=None):
  config = of('c3d', preset or 'small')
  config.victim.preset = preset
  return config


def of(name, preset, sizes=None):
  """A real clip through the victim `name` of the size `preset`."""
  sizes = SIZES | (sizes or {})
  if preset not in sizes:
    raise UserError(f'No size {preset!r} of {name}: choose one of '
                    f'{", ".join(sizes)} after the colon of --config.')
  config = default.get_config()
  config.data.name = 'video_folder'
  config.data.split = 'all'
  config.data.num_frames, config.data.image_size = sizes[preset]
  config.victim.name = name
  config.victim.preset = preset
  return config
