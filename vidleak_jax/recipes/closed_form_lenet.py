"""Frames through LeNet without iterating on pixels, then a short polish.

  vidleak attack --config=closed_form_lenet \
      --workdir=runs/closed_lenet --config.data.dir=FOLDER_OR_VIDEO
"""

from vidleak_jax.recipes.paper import lenet_dlg


def get_config():
  config = lenet_dlg.get_config()
  config.attack.name = 'closed_form'
  config.attack.num_restarts = 1
  return config
