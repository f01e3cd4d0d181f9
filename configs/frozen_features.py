"""Frames through a frozen ResNet-20 whose head alone shares its gradient.

  python launch/attack.py --config=configs/frozen_features.py \
      --workdir=runs/features --config.attack.num_references=5 \
      --config.victim.weights_file=resnet20.safetensors \
      --config.victim.head=classifier2 --config.victim.dropout_active=true

Heads are classifier1, classifier2, classifier3 (a gradient a frame) and matrix
(one for the clip). Without a weights_file the extractor is drawn from a seed:
then features are exact all the same, but show less of the frames.
"""

from configs import default


def get_config():
  config = default.get_config()
  config.data.num_frames = 10
  config.victim.name = 'frozen'
  config.victim.head = 'classifier1'
  config.federated.message = 'auto'
  config.attack.name = 'features'
  return config
