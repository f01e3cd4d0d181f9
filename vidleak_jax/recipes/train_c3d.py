"""Trains C3D to tell the ten camera motions of `photo_motion` apart.

  vidleak train victim --config=train_c3d --workdir=runs/c3d

Mirrored, upside down and played backwards a motion becomes another: the pairs
below say which.
"""

from ml_collections import ConfigDict

from vidleak_jax.experiments.training_spec import TrainingSpec
from vidleak_jax.recipes import to_config

_ROTATE = ('rotate_clockwise', 'rotate_counterclockwise')
_PAN_ROW = ('pan_left', 'pan_right')
_PAN_COLUMN = ('pan_up', 'pan_down')
_ZOOM = ('zoom_in', 'zoom_out')


def get_config() -> ConfigDict:
  """Returns every field of victim training."""
  config = to_config(TrainingSpec())
  config.augment.mirror = (_PAN_ROW, _ROTATE)
  config.augment.upside_down = (_PAN_COLUMN, _ROTATE)
  config.augment.reverse = (_PAN_ROW, _PAN_COLUMN, _ZOOM, _ROTATE)
  return config
