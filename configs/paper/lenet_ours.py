"""Ours: the closed form, then a short polish in float64.

  python launch/attack.py --config=configs/paper/lenet_ours.py \
      --workdir=runs/lenet_ours --config.data.dir=FOLDER_OR_VIDEO
"""

from configs import closed_form_lenet


def get_config():
  return closed_form_lenet.get_config()
