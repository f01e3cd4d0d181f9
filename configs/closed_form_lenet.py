"""Frames through LeNet without iterating on pixels, then a short polish.

  python launch/attack.py --config=configs/closed_form_lenet.py \
      --workdir=runs/closed_lenet --config.data.dir=FOLDER_OR_VIDEO
"""

from configs.paper import lenet_dlg


def get_config():
  config = lenet_dlg.get_config()
  config.attack.name = 'closed_form'
  config.attack.num_restarts = 1
  return config
