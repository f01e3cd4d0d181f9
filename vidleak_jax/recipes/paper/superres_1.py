"""Recovered frames enlarged 32 -> 128, with one reference frame of the scene.

  vidleak attack --config=paper/superres_1 \
      --workdir=runs/superres_1 --config.data.dir=FOLDER_OR_VIDEO
"""

from vidleak_jax.recipes.paper import lenet_rgap


def get_config():
  config = lenet_rgap.get_config()
  config.superres.name = 'clip'
  config.superres.noise = 0.0  # the recovery is exact
  config.superres.num_references = 1
  return config
