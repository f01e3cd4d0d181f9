r"""Every applicable attack on one update within a budget, and one verdict.

  vidleak audit --config=clip_c3d --budget=10m --workdir=runs/audit \
      --config.data.dir=FOLDER_OR_VIDEO
  vidleak audit --config=clip_c3d --budget=10m --workdir=runs/mine \
      --leak=runs/import/leak.safetensors

It writes audit.json and audit.html beside the files of an attack. With clips
at hand it also tries other settings of the client: noise, clipping, batches.
Started again in the same workdir it goes on where it stopped, also with a
larger --budget.
"""

from pathlib import Path

from absl import flags

from vidleak_jax import optional
from vidleak_jax.cli import launcher
from vidleak_jax.evaluation.report import terminal
from vidleak_jax.experiments import auditing
from vidleak_jax.experiments.leaking import Audit
from vidleak_jax.runtime import progress


def define_flags() -> None:
  """Defines the flags of this program."""
  launcher.define_flags('default')
  flags.DEFINE_string(
      'budget', '10m', 'Time for all of it: seconds, or 90s, 10m, 1.5h.')
  flags.DEFINE_string(
      'leak', None, 'Audit this leak.safetensors; no data set is touched.')
  flags.DEFINE_bool(
      'allow_code_from_leak', False,
      'Run the network that the leak itself names. Only for leaks you made.')


def main() -> None:
  """Runs the program on the flags that were parsed."""
  optional.require('video')  # the comparison is written at the end
  asked, folder = flags.FLAGS, launcher.workdir()
  with progress.Terminal() as terminal_lines:
    result = auditing.run(
        Audit.from_dict(launcher.resolved_config()), folder,
        budget=asked.budget, leak_path=asked.leak and Path(asked.leak),
        allow_code=asked.allow_code_from_leak, log_fn=print,
        progress=terminal_lines)
  print(terminal.of_audit(result, folder / auditing.PAGE))
