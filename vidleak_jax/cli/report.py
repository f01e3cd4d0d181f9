"""One page about a sweep: tables, heat maps, curves, recoveries, links.

  vidleak report --workdir=runs/tiny
"""

from pathlib import Path

from absl import flags

from vidleak_jax.experiments.sweep import summary


def define_flags() -> None:
  """Defines the flags of this program."""
  flags.DEFINE_string('workdir', None, "The sweep's folder.", required=True)
  flags.DEFINE_list(
      'over', ['seed'], 'Swept fields to average over, such as seed,data.dir.')


def main() -> None:
  """Runs the program on the flags that were parsed."""
  print(summary.write(Path(flags.FLAGS.workdir), flags.FLAGS.over))
