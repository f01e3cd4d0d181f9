"""Super-resolution: the stage after the attack.

`enhance` is what the main job calls; `bicubic` is the floor beside it.
"""

from vidleak_jax.superres.enhance import SHIPPED, enhance, load, scene
from vidleak_jax.superres.flicker import flicker
from vidleak_jax.superres.upscale import bicubic

__all__ = ['SHIPPED', 'bicubic', 'enhance', 'flicker', 'load', 'scene']
