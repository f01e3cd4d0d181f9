"""Classifier 2 on a frozen ResNet-20, dropout active.

  python launch/attack.py --config=configs/paper/frozen_classifier2.py \
      --workdir=runs/classifier2 --config.data.dir=FOLDER_OR_VIDEO \
      --config.victim.weights_file=resnet20.safetensors
"""

from vidleak_jax.recipes.paper.frozen_classifier2 import get_config

__all__ = ['get_config']
