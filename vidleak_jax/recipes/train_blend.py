"""Trains the blend that turns features and reference frames into frames.

  vidleak train blend --config=train_blend \
      --workdir=runs/blend

makes attacks/features/blend_photo_motion.safetensors, in 140 s of CPU time, and
with --config.victim.weights_file=FILE what suits another extractor: so for the
ResNet-20 of CIFAR-10 blend_cifar10.safetensors.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config() -> ConfigDict:
  """Every field of the training."""
  return ConfigDict({
      'seed': 7,
      'image_size': 32,
      'num_scenes': 600,
      'num_frames': 4,
      'num_references': 5,
      'num_steps': 600,
      'batch_size': 8,
      'learning_rate': 3e-3,
      'victim': {              # whose extractor is known
          'preset': 'small',
          'extractor': placeholder(str),
          'weights_file': 'photo_motion',  # a name, or a file
          'extractor_seed': 0,
          'inputs': 'imagenet',
      },
  })
