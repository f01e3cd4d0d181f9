r"""Trains a super-resolution network on moving views of photographs.

  vidleak train superres --config=train_superres \
      --workdir=runs/superres

Started again in the same workdir it goes on where it stopped.
"""

from vidleak_jax import data, optional
from vidleak_jax.cli import launcher
from vidleak_jax.evaluation import metrics
from vidleak_jax.runtime import workdir
from vidleak_jax.runtime.progress import Terminal
from vidleak_jax.superres import train
from vidleak_jax.superres.spec import TrainingSpec


def define_flags() -> None:
  """Defines the flags of this program."""
  launcher.define_flags('train_superres')


def main() -> None:
  """Runs the program on the flags that were parsed."""
  optional.require('photos')
  spec = TrainingSpec.from_dict(launcher.resolved_config())
  folder = launcher.workdir()
  with workdir.claim(folder, spec.to_dict(), {}), Terminal() as lines:
    sample = data.load(**spec.validation.to_dict())
    scores = train.run(spec, sample.batch.clips, sample.originals,
                       metrics.score_enhanced, folder, progress=lines)
  for metric in ('psnr', 'ssim'):
    print(f'{metric}: {scores[f"{metric}_enhanced"]:.3f}, '
          f'bicubic {scores[f"{metric}_bicubic"]:.3f}')
  print(f'weights: {folder}')
