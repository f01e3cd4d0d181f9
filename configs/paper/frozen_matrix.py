"""The feature matrix of a whole clip through a LeNet head.

  python launch/attack.py --config=configs/paper/frozen_matrix.py \
      --workdir=runs/matrix --config.data.dir=FOLDER_OR_VIDEO \
      --config.victim.weights_file=resnet20.safetensors
"""

from vidleak_jax.recipes.paper.frozen_matrix import get_config

__all__ = ['get_config']
