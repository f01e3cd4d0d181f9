"""256 trials of one shape: how much time a sweep saves.

  python benchmarks/sweep_speed.py --workdir=runs/speed
"""

from vidleak_jax.recipes.sweeps.same_shape import get_config

__all__ = ['get_config']
