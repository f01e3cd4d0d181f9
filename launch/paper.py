r"""Every result of the paper beside ours, as one document.

  python launch/paper.py --workdir=runs/paper --config.data.dir=FOLDER_OR_VIDEO
  python launch/paper.py --workdir=runs/paper --config.data.name=photo_motion \
      --config.data.split=test --document=docs/paper.md

Of the config only data, seed, backend and victim.weights_file (of the frozen
ResNet-20; without one, the one that is shipped) count, for every row. More
clips and frames are asked for by --config.data.num_clips and .num_frames.
Started again in the same workdir it goes on where it stopped.
"""

from vidleak_jax.cli import commands

if __name__ == '__main__':
  commands.start('paper')
