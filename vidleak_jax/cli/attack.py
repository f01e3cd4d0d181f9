r"""The main job: how much of a clip leaks through the gradient a client shares.

  vidleak attack --config=quickstart --workdir=runs/quick
  vidleak attack --config=quickstart --workdir=runs/mine \
      --config.data.name=video_folder --config.data.dir=clip.mp4
  vidleak attack --config=quickstart --workdir=runs/leak \
      --leak=runs/quick/leak.safetensors

Started again in the same workdir it goes on where it stopped. Several hosts
share one run when each starts it, number 0 writing the workdir:
  vidleak attack --config=clip_c3d --workdir=runs/many \
      --coordinator_address=HOST:1234 --num_processes=2 --process_id=0
"""

import json
from pathlib import Path

from absl import flags

from vidleak_jax import optional
from vidleak_jax.cli import launcher
from vidleak_jax.evaluation.report import terminal
from vidleak_jax.experiments import audit
from vidleak_jax.runtime import progress


def define_flags() -> None:
  """Defines the flags of this program."""
  launcher.define_flags('default')
  launcher.define_process_flags()
  flags.DEFINE_string(
      'leak', None, 'Attack this leak.safetensors; no data set is touched.')
  flags.DEFINE_bool(
      'allow_code_from_leak', False,
      'Run the network that the leak itself names. Only for leaks you made.')
  flags.DEFINE_bool(
      'tensorboard', False, 'Also write TensorBoard events to the workdir.')
  flags.DEFINE_bool(
      'json', False, 'Print the content of result.json and nothing else.')


def main() -> None:
  """Runs the program on the flags that were parsed."""
  optional.require('video')  # the comparison is written at the end
  args = flags.FLAGS
  folder = launcher.workdir()
  log = _silent if args.json else print
  if not args.leak and not (folder / 'leak.json').exists():
    log('Loading clips, and computing the update that their client sends.')
  with progress.Terminal() as terminal_lines:
    result = audit.run(
        launcher.resolved_config(), folder,
        leak_path=args.leak and Path(args.leak),
        tensorboard=args.tensorboard, allow_code=args.allow_code_from_leak,
        log_fn=log, progress=terminal_lines)
  if result:
    print(json.dumps(result) if args.json
          else terminal.of_run(result, folder))


def _silent(text: str) -> None:
  del text
