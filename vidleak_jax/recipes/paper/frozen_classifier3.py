"""Classifier 3 on a frozen ResNet-20, dropout active.

  vidleak attack --config=paper/frozen_classifier3 \
      --workdir=runs/classifier3 --config.data.dir=FOLDER_OR_VIDEO \
      --config.victim.weights_file=resnet20.safetensors
"""

from vidleak_jax.recipes.paper import frozen_classifier1


def get_config():
  config = frozen_classifier1.get_config()
  config.victim.head = 'classifier3'
  config.victim.dropout_active = True
  return config
