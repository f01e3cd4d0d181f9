"""Classifier 1 on a frozen ResNet-20.

  vidleak attack --config=paper/frozen_classifier1 \
      --workdir=runs/classifier1 --config.data.dir=FOLDER_OR_VIDEO \
      --config.victim.weights_file=resnet20.safetensors
"""

from vidleak_jax.recipes import frozen_features
from vidleak_jax.recipes.paper import lenet_dlg


def get_config():
  config = frozen_features.get_config()
  config.data = lenet_dlg.get_config().data
  config.victim.num_classes = 100
  config.victim.head = 'classifier1'
  return config
