"""The feature matrix of a whole clip through a LeNet head.

  vidleak attack --config=paper/frozen_matrix \
      --workdir=runs/matrix --config.data.dir=FOLDER_OR_VIDEO \
      --config.victim.weights_file=resnet20.safetensors
"""

from vidleak_jax.recipes.paper import frozen_classifier1


def get_config():
  config = frozen_classifier1.get_config()
  config.victim.head = 'matrix'
  return config
