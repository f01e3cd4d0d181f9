"""Classifier 1 on a frozen ResNet-20.

  python launch/attack.py --config=configs/paper/frozen_classifier1.py \
      --workdir=runs/classifier1 --config.data.dir=FOLDER_OR_VIDEO \
      --config.victim.weights_file=resnet20.safetensors
"""

from vidleak_jax.recipes.paper.frozen_classifier1 import get_config

__all__ = ['get_config']
