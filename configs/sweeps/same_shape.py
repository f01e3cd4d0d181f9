"""256 trials of one shape: how much time a sweep saves.

  python benchmarks/sweep_speed.py --workdir=runs/speed
"""

from configs import sweeps
from configs.sweeps import tiny


def get_config():
  config = tiny.get_config()
  config.sweep = sweeps.space(grid={'seed': range(256)})
  return config
