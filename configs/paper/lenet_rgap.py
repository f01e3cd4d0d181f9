"""R-GAP generalised: the closed form alone, no iteration on the pixels.

  python launch/attack.py --config=configs/paper/lenet_rgap.py \
      --workdir=runs/lenet_rgap --config.data.dir=FOLDER_OR_VIDEO
"""

from vidleak_jax.recipes.paper.lenet_rgap import get_config

__all__ = ['get_config']
