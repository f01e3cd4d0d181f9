"""Attack at 32x32, then enhance to 128x128.

  vidleak attack --config=superres_clip --workdir=runs/sr \
      --config.data.dir=FOLDER_OR_VIDEO --config.superres.num_references=1

Feature matching leaves no noise worth the name, so the enhancer is told 0;
after `ig` say --config.superres.noise=0.015.
"""

from vidleak_jax.recipes import clip_c3d


def get_config():
  config = clip_c3d.get_config()
  config.superres.name = 'clip'
  config.superres.noise = 0.0
  return config
