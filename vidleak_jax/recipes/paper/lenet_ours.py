"""Ours: the closed form, then a short polish in float64.

  vidleak attack --config=paper/lenet_ours \
      --workdir=runs/lenet_ours --config.data.dir=FOLDER_OR_VIDEO
"""

from vidleak_jax.recipes import closed_form_lenet


def get_config():
  return closed_form_lenet.get_config()
