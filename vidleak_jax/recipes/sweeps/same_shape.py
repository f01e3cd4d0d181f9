"""256 trials of one shape: how much time a sweep saves.

  python benchmarks/sweep_speed.py --workdir=runs/speed
"""

from vidleak_jax.recipes import sweeps
from vidleak_jax.recipes.sweeps import tiny


def get_config():
  config = tiny.get_config()
  config.sweep = sweeps.space(grid={'seed': range(256)})
  return config
