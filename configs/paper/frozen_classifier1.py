"""Classifier 1 on a frozen ResNet-20.

  python launch/attack.py --config=configs/paper/frozen_classifier1.py \
      --workdir=runs/classifier1 --config.data.dir=FOLDER_OR_VIDEO \
      --config.victim.weights_file=resnet20.safetensors
"""

from configs import frozen_features
from configs.paper import lenet_dlg


def get_config():
  config = frozen_features.get_config()
  config.data = lenet_dlg.get_config().data
  config.victim.num_classes = 100
  config.victim.head = 'classifier1'
  return config
