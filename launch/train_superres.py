"""Trains a super-resolution network on moving views of photographs.

  python launch/train_superres.py --config=configs/train_superres.py \
      --workdir=runs/superres

Started again in the same workdir it goes on where it stopped.
"""

from vidleak_jax import data
from vidleak_jax.cli import launcher
from vidleak_jax.evaluation import metrics
from vidleak_jax.runtime import workdir
from vidleak_jax.superres import train

launcher.define_flags('train_superres')


def main() -> None:
  config, folder = launcher.resolved_config(), launcher.workdir()
  with workdir.claim(folder, config, {}):
    sample = data.load(**config['validation'])
    scores = train.run(config, sample.batch.clips, sample.originals,
                       metrics.score_enhanced, folder)
  for metric in ('psnr', 'ssim'):
    print(f'{metric}: {scores[f"{metric}_enhanced"]:.3f}, '
          f'bicubic {scores[f"{metric}_bicubic"]:.3f}')
  print(f'weights: {folder}')


if __name__ == '__main__':
  launcher.run(main)
