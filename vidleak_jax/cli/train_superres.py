r"""Trains a super-resolution network on moving views of photographs.

  vidleak train superres --config=train_superres \
      --workdir=runs/superres

Started again in the same workdir it goes on where it stopped.
"""

from vidleak_jax import data, optional
from vidleak_jax.cli import launcher
from vidleak_jax.evaluation import metrics
from vidleak_jax.runtime import workdir
from vidleak_jax.superres import train


def define_flags() -> None:
  """Defines the flags of this program."""
  launcher.define_flags('train_superres')


def main() -> None:
  """Runs the program on the flags that were parsed."""
  optional.require('photos')
  config, folder = launcher.resolved_config(), launcher.workdir()
  with workdir.claim(folder, config, {}):
    sample = data.load(**config['validation'])
    scores = train.run(config, sample.batch.clips, sample.originals,
                       metrics.score_enhanced, folder)
  for metric in ('psnr', 'ssim'):
    print(f'{metric}: {scores[f"{metric}_enhanced"]:.3f}, '
          f'bicubic {scores[f"{metric}_bicubic"]:.3f}')
  print(f'weights: {folder}')
