"""Classifier 1 on a frozen ResNet-20, one gradient of all clips.

  vidleak attack --config=paper/frozen_batch \
      --workdir=runs/batch --config.data.dir=FOLDER_OR_VIDEO \
      --config.victim.weights_file=resnet20.safetensors
"""

from vidleak_jax.recipes.paper import frozen_classifier1


def get_config():
  config = frozen_classifier1.get_config()
  config.federated.message = 'batch'
  return config
