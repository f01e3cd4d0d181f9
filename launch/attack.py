"""The main job: how much of a clip leaks through the gradient a client shares.

  python launch/attack.py --config=configs/quickstart.py --workdir=runs/quick
  python launch/attack.py --config=configs/quickstart.py --workdir=runs/mine \
      --config.data.name=video_folder --config.data.dir=clip.mp4
  python launch/attack.py --config=configs/quickstart.py --workdir=runs/leak \
      --leak=runs/quick/leak.safetensors

Started again in the same workdir it goes on where it stopped. Several hosts
share one run when each starts it, number 0 writing the workdir:
  python launch/attack.py --config=configs/clip_c3d.py --workdir=runs/many \
      --coordinator_address=HOST:1234 --num_processes=2 --process_id=0
"""

from pathlib import Path

from absl import flags

from vidleak_jax.cli import launcher
from vidleak_jax.evaluation.report import terminal
from vidleak_jax.experiments import audit

launcher.define_flags('default')
launcher.define_process_flags()
_LEAK = flags.DEFINE_string(
    'leak', None, 'Attack this leak.safetensors; no data set is touched.')
_TENSORBOARD = flags.DEFINE_bool(
    'tensorboard', False, 'Also write TensorBoard events to the workdir.')


def main() -> None:
  folder = launcher.workdir()
  result = audit.run(
      launcher.resolved_config(), folder,
      leak_path=_LEAK.value and Path(_LEAK.value),
      tensorboard=_TENSORBOARD.value)
  if result:
    print(terminal.of_run(result, folder))


if __name__ == '__main__':
  launcher.run(main)
