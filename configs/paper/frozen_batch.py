"""Classifier 1 on a frozen ResNet-20, one gradient of all clips.

  python launch/attack.py --config=configs/paper/frozen_batch.py \
      --workdir=runs/batch --config.data.dir=FOLDER_OR_VIDEO \
      --config.victim.weights_file=resnet20.safetensors
"""

from vidleak_jax.recipes.paper.frozen_batch import get_config

__all__ = ['get_config']
