r"""Trains a victim; its weights then go to an attack as victim.checkpoint.

  python launch/train_victim.py --config=configs/train_c3d.py --workdir=runs/c3d
  python launch/attack.py --config=configs/clip_c3d.py --workdir=runs/late \
      --config.victim.num_classes=10 --config.data.dir=FOLDER_OR_VIDEO \
      --config.victim.checkpoint=runs/c3d/params.safetensors

Started again in the same workdir it goes on where it stopped.
"""

from vidleak_jax.cli import commands

if __name__ == '__main__':
  commands.start('train victim')
