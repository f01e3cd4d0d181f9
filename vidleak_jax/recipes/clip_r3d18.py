"""A real video, one gradient for the whole clip, through R3D-18.

  vidleak attack --config=clip_r3d18:small \
      --workdir=runs/r3d18 --config.data.dir=FOLDER_OR_VIDEO
"""

from vidleak_jax.recipes import clip_c3d


def get_config(preset='small'):
  return of('r3d18', preset)


def of(name, preset):
  """A real clip through a 3-D ResNet."""
  config = clip_c3d.of(name, preset)
  # The gradient leads nowhere by itself, see docs/lab/victims.md: weaker ones
  # end further below a clip of its mean colour.
  config.attack.ig.priors.spatial_tv = 1.0
  config.attack.ig.priors.temporal_tv = 1.0
  config.attack.ig.priors.colour_tv = 1.0
  return config
