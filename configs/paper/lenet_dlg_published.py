"""DLG as published: from N(0, 1), L-BFGS alone, no polish.

  python launch/attack.py --config=configs/paper/lenet_dlg_published.py \
      --workdir=runs/lenet_published --config.data.dir=FOLDER_OR_VIDEO
"""

from configs.paper import lenet_dlg


def get_config():
  config = lenet_dlg.get_config()
  config.attack.num_steps = 2000
  config.attack.dlg.start_mean = 0.0
  config.attack.dlg.start_std = 1.0
  config.attack.dlg.polish_steps = 0
  return config
