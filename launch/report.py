"""One page about a sweep: tables, heat maps, curves, recoveries, links.

  python launch/report.py --workdir=runs/tiny
"""

from pathlib import Path

from absl import flags

from vidleak_jax.cli import launcher
from vidleak_jax.experiments.sweep import summary

_WORKDIR = flags.DEFINE_string('workdir', None, 'Of the sweep.', required=True)
_OVER = flags.DEFINE_list(
    'over', ['seed'], 'Swept fields to average over, such as seed,data.dir.')


def main() -> None:
  print(summary.write(Path(_WORKDIR.value), _OVER.value))


if __name__ == '__main__':
  launcher.run(main)
