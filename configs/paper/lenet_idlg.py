"""iDLG: as lenet_dlg_published, the label read off the head's bias gradient.

  python launch/attack.py --config=configs/paper/lenet_idlg.py \
      --workdir=runs/lenet_idlg --config.data.dir=FOLDER_OR_VIDEO
"""

from vidleak_jax.recipes.paper.lenet_idlg import get_config

__all__ = ['get_config']
