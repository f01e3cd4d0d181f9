"""A clip from the gradients of a video transformer's two embeddings.

  python launch/attack.py --config=configs/closed_form_vivit.py \
      --workdir=runs/closed_vivit --config.data.dir=FOLDER_OR_VIDEO
"""

from vidleak_jax.recipes.closed_form_vivit import get_config

__all__ = ['get_config']
