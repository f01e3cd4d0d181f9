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
from vidleak_jax.runtime.progress import Terminal


def define_flags() -> None:
  """Defines the flags of this program."""
  launcher.define_flags('train_blend')


def main() -> None:
  """Runs the program on the flags that were parsed."""
  optional.require('photos')
  spec = train.BlendSpec.from_dict(launcher.resolved_config())
  folder, size = launcher.workdir(), spec.image_size
  with workdir.claim(folder, spec.to_dict(), {}), Terminal() as lines:
    victim = victims.build('frozen', (1, size, size, 3), 10, lowering='lax',
                           **spec.victim.to_dict())
    params = train.run(frame_extractor(victim), spec, folder, progress=lines)
    weights.save(folder / 'blend.safetensors', params)
  print(f'weights: {folder}/blend.safetensors')
