"""A first look: one clip of the embedded data set through a 3-D CNN's gradient.

  vidleak attack --config=quickstart --workdir=runs/quick
"""

from vidleak_jax.recipes import default


def get_config():
  config = default.get_config()
  config.superres.name = 'clip'
  config.superres.noise = 0.0  # what this attack leaves
  return config
