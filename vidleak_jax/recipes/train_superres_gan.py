"""Trains the perceptual network that the package ships, from the faithful one.

What ships is `interpolated.safetensors`; ten minutes on two busy cores.

  vidleak train superres --config=train_superres_gan \
      --workdir=runs/perceptual
"""

from ml_collections import ConfigDict

from vidleak_jax.recipes import train_superres


def get_config() -> ConfigDict:
  config = train_superres.get_config()
  config.start = 'shipped'
  config.pool.num_clips = 800
  config.pool.size = 64
  config.batch_size = 4
  config.max_noise = 0.0
  config.validate_steps = 300
  config.stage1.num_steps = 0
  config.stage2.num_steps = 900
  config.stage2.discriminator_noise = 0.1
  config.stage2.objective.gan = 0.5
  config.stage2.objective.perceptual = 2.0
  config.perceptual.network = 'resnet20'
  config.perceptual.weights_file = 'photo_motion'
  return config
