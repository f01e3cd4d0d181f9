"""Classifier 3 on a frozen ResNet-20, dropout active.

  python launch/attack.py --config=configs/paper/frozen_classifier3.py \
      --workdir=runs/classifier3 --config.data.dir=FOLDER_OR_VIDEO \
      --config.victim.weights_file=resnet20.safetensors
"""

from configs.paper import frozen_classifier1


def get_config():
  config = frozen_classifier1.get_config()
  config.victim.head = 'classifier3'
  config.victim.dropout_active = True
  return config
