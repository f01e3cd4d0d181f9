"""R-GAP generalised: the closed form alone, no iteration on the pixels.

  vidleak attack --config=paper/lenet_rgap \
      --workdir=runs/lenet_rgap --config.data.dir=FOLDER_OR_VIDEO
"""

from vidleak_jax.recipes import closed_form_lenet


def get_config():
  config = closed_form_lenet.get_config()
  config.attack.closed_form.polish_steps = 0
  return config
