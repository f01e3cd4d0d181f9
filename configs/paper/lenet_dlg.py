"""The paper's raw-frame attack: LeNet, one gradient a frame, DLG.

  python launch/attack.py --config=configs/paper/lenet_dlg.py \
      --workdir=runs/lenet_dlg --config.data.dir=FOLDER_OR_VIDEO
"""

from vidleak_jax.recipes.paper.lenet_dlg import get_config

__all__ = ['get_config']
