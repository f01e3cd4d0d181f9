"""DLG as published: from N(0, 1), L-BFGS alone, no polish.

  python launch/attack.py --config=configs/paper/lenet_dlg_published.py \
      --workdir=runs/lenet_published --config.data.dir=FOLDER_OR_VIDEO
"""

from vidleak_jax.recipes.paper.lenet_dlg_published import get_config

__all__ = ['get_config']
