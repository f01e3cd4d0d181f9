r"""Every result of the paper beside ours, as one document.

  vidleak paper --workdir=runs/paper --config.data.dir=FOLDER_OR_VIDEO
  vidleak paper --workdir=runs/paper --config.data.name=photo_motion \
      --config.data.split=test --document=docs/paper.md

Of the config only data, seed, backend and victim.weights_file (of the frozen
ResNet-20; without one, the one that is shipped) count, for every row. More
clips and frames are asked for by --config.data.num_clips and .num_frames.
Started again in the same workdir it goes on where it stopped.
"""

from pathlib import Path

from absl import flags

from vidleak_jax import optional
from vidleak_jax.cli import launcher
from vidleak_jax.experiments import paper
from vidleak_jax.experiments.leaking import Audit
from vidleak_jax.runtime.progress import Terminal


def define_flags() -> None:
  """Defines the flags of this program."""
  launcher.define_flags('paper/lenet_ours')
  flags.DEFINE_string(
      'document', None, 'Where to write; default: WORKDIR/paper.md.')


def main() -> None:
  """Runs the program on the flags that were parsed."""
  optional.require('video')
  folder = launcher.workdir()
  document = Path(flags.FLAGS.document or folder / 'paper.md')
  base = Audit.from_dict(launcher.resolved_config())
  with Terminal() as lines:
    paper.write(base, folder, document, log_fn=print, progress=lines)
  print(document)
