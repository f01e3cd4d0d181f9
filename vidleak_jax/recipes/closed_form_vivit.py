"""A clip from the gradients of a video transformer's two embeddings.

  vidleak attack --config=closed_form_vivit \
      --workdir=runs/closed_vivit --config.data.dir=FOLDER_OR_VIDEO
"""

from vidleak_jax.recipes import clip_c3d


def get_config():
  config = clip_c3d.get_config()
  config.data.num_frames = 16
  config.data.image_size = 112
  config.victim.name = 'vivit'
  config.victim.preset = 'full'
  config.victim.inputs = 'half'  # what published weights take
  config.attack.name = 'closed_form'
  config.attack.closed_form.polish_steps = 0  # hours, for 12 blocks in float64
  return config
