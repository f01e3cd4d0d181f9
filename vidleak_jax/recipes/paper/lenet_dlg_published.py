"""DLG as published: from N(0, 1), L-BFGS alone, no polish.

  vidleak attack --config=paper/lenet_dlg_published \
      --workdir=runs/lenet_published --config.data.dir=FOLDER_OR_VIDEO
"""

from vidleak_jax.recipes.paper import lenet_dlg


def get_config():
  config = lenet_dlg.get_config()
  config.attack.num_steps = 2000
  config.attack.dlg.start_mean = 0.0
  config.attack.dlg.start_std = 1.0
  config.attack.dlg.polish_steps = 0
  return config
