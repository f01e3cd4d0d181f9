"""Every field, with its meaning; the other configs are this plus overrides.

  python launch/attack.py --config=configs/default.py --workdir=runs/default
"""

from vidleak_jax.recipes.default import get_config

__all__ = ['get_config']
