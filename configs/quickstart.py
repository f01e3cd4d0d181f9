"""A first look: one clip of the embedded data set through a 3-D CNN's gradient.

  python launch/attack.py --config=configs/quickstart.py --workdir=runs/quick
"""

from vidleak_jax.recipes.quickstart import get_config

__all__ = ['get_config']
