r"""Trains a victim; its weights then go to an attack as victim.checkpoint.

  vidleak train victim --config=train_c3d --workdir=runs/c3d
  vidleak attack --config=clip_c3d --workdir=runs/late \
      --config.victim.num_classes=10 --config.data.dir=FOLDER_OR_VIDEO \
      --config.victim.checkpoint=runs/c3d/params.safetensors

Started again in the same workdir it goes on where it stopped.
"""

from vidleak_jax.cli import launcher
from vidleak_jax.experiments import training
from vidleak_jax.experiments.training_spec import TrainingSpec
from vidleak_jax.runtime.progress import Terminal


def define_flags() -> None:
  """Defines the flags of this program."""
  launcher.define_flags('train_c3d')


def main() -> None:
  """Runs the program on the flags that were parsed."""
  spec = TrainingSpec.from_dict(launcher.resolved_config())
  folder = launcher.workdir()
  with Terminal() as lines:
    result = training.run(spec, folder, progress=lines)
  print(f'accuracy on test clips: {result["accuracy_test"]:.1%}, on training '
        f'clips {result["accuracy_train"]:.1%}')
  print(f'weights: {folder / "params.safetensors"}')
