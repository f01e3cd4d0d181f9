"""A random space on three seeds each; with --search=optuna, what matches best.

  python launch/sweep.py --config=configs/sweeps/search.py \
      --workdir=runs/search --search=optuna
"""

from vidleak_jax.recipes.sweeps.search import get_config

__all__ = ['get_config']
