"""Trains the ResNet-20 that frozen_features freezes.

  vidleak train victim --config=train_extractor \
      --workdir=runs/extractor

It learns to tell the clips of `photo_motion` apart by a frame, which needs no
labels; mirrored and shifted, as networks for CIFAR-10 are trained. It gets 30 %
of 350 clips right on frames left out. Its params.safetensors is what is shipped
with the victims, under the name photo_motion. 9 minutes of CPU time.
"""

from vidleak_jax.recipes import train_c3d


def get_config():
  config = train_c3d.get_config()
  config.data.num_frames = 32
  config.data.frame_stride = 1
  config.data.image_size = 32
  config.clips_per_video = 1
  config.victim.name = 'frozen'
  config.victim.norm = 'fixed'
  config.augment.colours = False
  config.augment.shift = 4
  config.augment.mirror = ()
  config.augment.upside_down = config.augment.reverse = None
  config.learning_rate = 3e-3
  config.batch_size = 32
  config.num_steps = 1200
  config.snapshots = ()
  config.backend.num_devices = 1  # BatchNorm sees the whole batch
  return config
