"""A whole clip through 3-D convolutions, layer by layer, by linear algebra.

  vidleak attack --config=closed_form_clip \
      --workdir=runs/closed_clip --config.data.dir=FOLDER_OR_VIDEO

The preset keeps at least as many equations as unknowns in every layer.
"""

from vidleak_jax.recipes import clip_c3d


def get_config():
  config = clip_c3d.get_config()
  config.victim.preset = 'invertible'
  config.victim.activation = 'leaky_relu'
  config.attack.name = 'closed_form'
  return config
