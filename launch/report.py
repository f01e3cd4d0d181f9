"""One page about a sweep: tables, heat maps, curves, recoveries, links.

  python launch/report.py --workdir=runs/tiny
"""

from vidleak_jax.cli import commands

if __name__ == '__main__':
  commands.start('report')
