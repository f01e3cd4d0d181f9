r"""Trains the last step of the attack on a frozen extractor, on public scenes.

  vidleak train blend --config=train_blend \
      --workdir=runs/blend --config.victim.weights_file=FILE_OF_THE_EXTRACTOR

Then attack with
--config.attack.frozen_features.weights=runs/blend/blend.safetensors.
"""

from vidleak_jax import optional, victims
from vidleak_jax.attacks.features import train
from vidleak_jax.attacks.features.decoder import frame_extractor
from vidleak_jax.cli import launcher
from vidleak_jax.models import weights
from vidleak_jax.runtime import workdir


def define_flags() -> None:
  """Defines the flags of this program."""
  launcher.define_flags('train_blend')


def main() -> None:
  """Runs the program on the flags that were parsed."""
  optional.require('photos')
  config, folder = launcher.resolved_config(), launcher.workdir()
  size = config['image_size']
  options = {k: v for k, v in config.pop('victim').items() if v is not None}
  training = {k: v for k, v in config.items() if k != 'image_size'}
  with workdir.claim(folder, launcher.resolved_config(), {}):
    victim = victims.build('frozen', (1, size, size, 3), 10, lowering='lax',
                           **options)
    params = train.run(
        frame_extractor(victim), size=size, folder=folder,
        log=lambda step, psnr: print(f'step {step}: {psnr:.2f} dB'),
        **training)
    weights.save(folder / 'blend.safetensors', params)
  print(f'weights: {folder}/blend.safetensors')
