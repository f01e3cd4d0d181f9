"""200 trials of a second or so each, to try sweeps out.

  python launch/sweep.py --config=configs/sweeps/tiny.py --workdir=runs/tiny
  python launch/report.py --workdir=runs/tiny
"""

from vidleak_jax.recipes.sweeps.tiny import get_config

__all__ = ['get_config']
