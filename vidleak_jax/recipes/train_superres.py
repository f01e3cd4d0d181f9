"""Trains the small network that the package ships.

  vidleak train superres --config=train_superres \
      --workdir=runs/superres
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config() -> ConfigDict:
  """Every field of super-resolution training."""
  return ConfigDict({
      'seed': 0,
      'num_devices': 0,          # 0: all
      'network': {'name': 'clip', 'scale': 4, 'frames': 5, 'width': 32,
                  'num_blocks': 5},
      'start': placeholder(str),  # a weights file, or `shipped`
      'pool': {
          'num_clips': 1500,
          'size': 128,           # of the frames aimed at
          'degradation': 'bicubic',  # or second_order
      },
      'max_noise': 0.08,         # of the residual of attacks; 0: true frames
      'batch_size': 8,
      'chunk_steps': 10,        # between progress reports
      'validate_steps': 500,
      'ema': 0.995,
      'stage1': {
          'num_steps': 2500,
          'learning_rate': 1e-3,
          'objective': {'l1': 1.0},
      },
      'stage2': {
          'num_steps': 0,        # 0: no adversarial stage
          'learning_rate': 1e-4,
          'rival_learning_rate': 1e-4,
          'discriminator': 'unet',  # or vgg
          'discriminator_width': 16,  # ESRGAN's 64: 12 times as long a step
          'rival_noise': 0.08,      # it sees through: what is fainter is hidden
          # shares of each term's pull on the frames
          'objective': {'l1': 1.0, 'gan': 0.7, 'perceptual': 0.0},
      },
      'interpolation': 0.8,      # share of stage 2 in interpolated.safetensors
      'perceptual': {  # network: none, vgg19, resnet20, of a weights_file
          'network': 'none', 'weights_file': placeholder(str)},
      'validation': {            # of data.load
          'name': 'photo_motion',
          'dir': placeholder(str),
          'split': 'train',
          'num_clips': 4,
          'num_frames': 8,
          'frame_stride': 2,
          'image_size': 32,
          'original_size': 128,
          'seed': 0,
      },
  })
