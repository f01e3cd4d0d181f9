"""Trains C3D to tell the ten camera motions of `photo_motion` apart.

  vidleak train victim --config=train_c3d --workdir=runs/c3d

Mirrored, upside down and played backwards a motion becomes another: the pairs
below say which.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

_ROTATE = ('rotate_clockwise', 'rotate_counterclockwise')
_PAN_ROW = ('pan_left', 'pan_right')
_PAN_COLUMN = ('pan_up', 'pan_down')
_ZOOM = ('zoom_in', 'zoom_out')


def get_config() -> ConfigDict:
  """Every field of victim training."""
  return ConfigDict({
      'seed': 0,
      'data': {                     # of data.train_arrays
          'name': 'photo_motion',
          'dir': placeholder(str),  # of video_folder: class folders
          'train_split': 'train',
          'test_split': 'test',
          'num_frames': 8,
          'frame_stride': 4,
          'image_size': 16,
      },
      'clips_per_video': 2,         # from other start frames, where there are
      'victim': {                   # as in default.py
          'name': 'c3d',
          'preset': 'small',
          'activation': placeholder(str),
          'norm': placeholder(str),  # fixed and batch train alike
          'inputs': placeholder(str),
          'encoder': placeholder(str),
          'pool': placeholder(str),
          'cell': placeholder(str),
      },
      'augment': {                  # None: no; pairs of classes change places
          'colours': True,
          'shift': 2,
          'mirror': (_PAN_ROW, _ROTATE),
          'upside_down': (_PAN_COLUMN, _ROTATE),
          'reverse': (_PAN_ROW, _PAN_COLUMN, _ZOOM, _ROTATE),
      },
      'optimizer': 'adamw',         # or sgd, with momentum
      'learning_rate': 2e-3,
      'momentum': 0.9,              # of sgd
      'weight_decay': 1e-2,
      'warmup_steps': 50,
      'clip_norm': 1.0,             # of the gradient
      'batch_size': 16,
      'num_steps': 1000,
      'chunk_steps': 100,           # between logs and checkpoints
      'snapshots': (0.0, 0.1, 1.0),  # shares of the run
      'backend': {                  # as in default.py
          'num_devices': 0,
          'lowering': placeholder(str),
          'precision': placeholder(str),
      },
  })
