"""Recovered frames enlarged 32 -> 128, with five reference frames of the scene.

  vidleak attack --config=paper/superres_5 \
      --workdir=runs/superres_5 --config.data.dir=FOLDER_OR_VIDEO
"""

from vidleak_jax.recipes.paper import lenet_rgap


def get_config():
  config = lenet_rgap.get_config()
  config.superres.name = 'clip'
  config.superres.noise = 0.0  # the recovery is exact
  config.superres.num_references = 5
  return config
