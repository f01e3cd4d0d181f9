r"""Trains a super-resolution network on moving views of photographs.

  python launch/train_superres.py --config=configs/train_superres.py \
      --workdir=runs/superres

Started again in the same workdir it goes on where it stopped.
"""

from vidleak_jax.cli import commands

if __name__ == '__main__':
  commands.start('train superres')
