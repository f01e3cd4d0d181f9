"""Every field, with its meaning; the other recipes are this plus overrides.

  vidleak attack --config=default --workdir=runs/default
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config() -> ConfigDict:
  """Returns the default: `ig` on one clip of the embedded data set."""
  return ConfigDict({
      'seed': 0,
      'data': {
          'name': 'photo_motion',  # or video_folder, or any TFDS name
          'dir': placeholder(str),  # of video_folder: class folders, or a file
          'split': 'test',
          'num_clips': 1,
          'num_frames': 8,
          'frame_stride': 2,
          'image_size': 32,       # the attacked resolution, square
          'original_size': 128,   # what super-resolution is scored against
          'labels': 'dataset',    # or random: drawn from the victim's classes
      },
      'victim': {
          'name': 'c3d',
          'num_classes': 101,
          'dropout_active': False,         # in the client's gradient
          'checkpoint': placeholder(str),  # trained; None: initialised
          # Options of some victims; None: the network's own default.
          'preset': placeholder(str),      # tiny, small, full and others
          'activation': placeholder(str),
          'norm': placeholder(str),        # fixed, batch, group, layer, none
          'inputs': placeholder(str),      # scale: unit, half, imagenet, ...
          'encoder': placeholder(str),     # of vivit: joint, factorised
          'pool': placeholder(str),        # of vivit: token, mean
          'cell': placeholder(str),        # of cnn_gru: gru, lstm
          'head': placeholder(str),        # of frozen: classifier1, mlp, ...
          'extractor': placeholder(str),   # of frozen: resnet20, resnet18, ...
          'weights_file': placeholder(str),    # of the extractor
          'extractor_seed': placeholder(int),  # without such a file
      },
      'federated': {
          'message': 'clip',       # one gradient each: frame, clip, batch; auto
          'algorithm': 'fedsgd',   # or fedavg
          'local_steps': 1,        # of fedavg
          'local_learning_rate': 0.01,
          'labels_known': False,   # whether the client sends its labels
      },
      'defense': {                 # each is off at 0
          'clip_norm': 0.0,        # largest global norm
          'noise_std': 0.0,        # of Gaussian noise, absolute
          'prune_fraction': 0.0,   # of each leaf's smallest entries
          'quantize_bits': 0,
      },
      'attack': {
          'name': 'ig',
          'num_restarts': 1,  # padded to fill all devices; padding is dropped
          'num_steps': placeholder(int),  # None: the recipe's own
          'chunk_steps': 50,              # between logs and checkpoints
          'keep_checkpoints': 2,          # the newest; 0: all
          # After each of these steps the worse half of the restarts is dropped
          # and the others inherit its steps.
          'halve_at': (),
          'num_references': 0,  # frames of the clip's video, from outside it
          'anchored': _anchored(),
          'ig': _ig(),
          'dlg': _dlg(),
          'idlg': {**_dlg(), 'labels': 'inferred'},
          'closed_form': {
              'polish_steps': 3,  # of Gauss-Newton, in float64
              'polish_inner_steps': 200,  # conjugate gradients in each
              # TimeSformer's and VideoMAE's kind, where not exact: slow steps
              # that weigh the gradient's directions by how well they show.
              'sharpen_steps': 0,
              # Video has 256 levels a colour: what comes out near enough to
              # them is rounded. False: as for clips that were filtered since.
              'whole_levels': True,
          },
          'features': {            # of a frozen extractor
              'weights': placeholder(str),  # of the blend; None: shipped
              'num_scenes': 1000,  # public ones, for statistics
              'seed': 0,           # of those
          },
      },
      'superres': {
          'name': 'none',          # or clip: after the attack, to original_size
          # A file; None: the shipped network, perceptual: a crisper one.
          'weights': placeholder(str),
          'noise': 0.015,          # of the recovery, as the attacker guesses it
          'num_references': 0,     # real frames that the attacker holds
          'references': (),        # those instead: frame numbers or images
          'tile': 128,             # frames are computed in tiles of that side
          'batch_size': 4,         # tiles at once on a device
      },
      'backend': {                 # None: what backend.py measured as best
          'num_devices': 0,        # 0: all
          'lowering': placeholder(str),       # of convolutions: matmul, lax
          'restart_batch': placeholder(int),  # tries vmapped together
          'precision': placeholder(str),      # of float32 matrix products
      },
  })


def _ig() -> dict:
  """Cosine, a little relative L2, which holds the contrast, and variations."""
  return {
      'num_steps': 2000,
      'labels': 'inferred',      # or joint: optimised with the clip
      'match': 'gradient',       # or anchored: attack/anchored.py
      'distance': {'cosine': 1.0, 'relative_l2': 0.1, 'squared_l2': 0.0},
      'priors': {'spatial_tv': 0.01, 'temporal_tv': 0.01, 'colour_tv': 0.03,
                 'motion_tv': 0.0},
      'prior_schedule': 'constant',  # or cosine, geometric, steps
      'optimizer': 'adam',       # or signed_adam, lbfgs
      'learning_rate': 0.05,
      'schedule': 'cosine',      # or constant, geometric, steps
      'warmup_steps': 0,
      'beta2': 0.999,            # of adam
      'memory': 20,              # of lbfgs
      # Share of the steps in which blocks of pixels and frames move as one,
      # large ones first.
      'coarse': 0.25,
      'start_mean': 0.5,
      'start_std': 0.05,
      'box': True,
      'polish_steps': 0,         # of Gauss-Newton in float64, at the end
      'polish_inner_steps': 200,  # conjugate gradients in each
  }


def _anchored() -> dict:
  """Our own: exact targets from the head's gradient, TV that fades away."""
  return _ig() | {
      'num_steps': 1000,
      'match': 'anchored',
      'priors': {'spatial_tv': 1.0, 'temporal_tv': 1.0, 'colour_tv': 0.0,
                 'motion_tv': 0.0},
      'prior_schedule': 'geometric',
      'learning_rate': 0.1,
      'beta2': 0.99,
      'coarse': 0.0,
  }


def _dlg() -> dict:
  """DLG (1906.08935): clip and soft label together, L-BFGS, nothing else."""
  return {
      'num_steps': 1000,
      'labels': 'joint',
      'match': 'gradient',
      'distance': {'cosine': 0.0, 'relative_l2': 0.0, 'squared_l2': 1.0},
      'priors': {'spatial_tv': 0.0, 'temporal_tv': 0.0, 'colour_tv': 0.0,
                 'motion_tv': 0.0},
      'prior_schedule': 'constant',
      'optimizer': 'lbfgs',
      'learning_rate': 1.0,
      'schedule': 'constant',
      'warmup_steps': 0,
      'beta2': 0.999,
      'memory': 50,
      'coarse': 0.0,
      'start_mean': 0.0,
      'start_std': 1.0,
      'box': False,
      'polish_steps': 0,
      'polish_inner_steps': 200,
  }
