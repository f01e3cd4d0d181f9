"""No attack: true frames, shrunk to 32x32, enhanced to 128x128, scored.

  vidleak attack --config=superres_frames \
      --workdir=runs/frames --config.data.dir=FOLDER_OR_VIDEO
"""

from vidleak_jax.recipes import clip_c3d


def get_config():
  config = clip_c3d.get_config()
  config.superres.name = 'clip'
  config.superres.noise = 0.0
  config.attack.name = 'none'
  return config
