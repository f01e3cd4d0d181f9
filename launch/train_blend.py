r"""Trains the last step of the attack on a frozen extractor, on public scenes.

  python launch/train_blend.py --config=configs/train_blend.py \
      --workdir=runs/blend --config.victim.weights_file=FILE_OF_THE_EXTRACTOR

Then attack with --config.attack.features.weights=runs/blend/blend.safetensors.
"""

from vidleak_jax.cli import commands

if __name__ == '__main__':
  commands.start('train blend')
