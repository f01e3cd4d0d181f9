"""Photographs from scikit-image's wheel, and which may be trained on."""

import functools
import importlib.resources

import numpy as np
from PIL import Image

from vidleak_jax import optional

# Those that `photo_motion` does not test on, and how often each is drawn: few
# photographs, so scenes before textures.
PUBLIC = {
    'astronaut.png': 6, 'rocket.jpg': 4, 'coins.png': 2, 'ihc.png': 2,
    'retina.jpg': 1, 'brick.png': 1, 'grass.png': 1, 'gravel.png': 1,
    'page.png': 1, 'hubble_deep_field.jpg': 1, 'moon.png': 1,
}


@functools.cache
def load(name: str, mode: str | None = 'RGB') -> Image.Image:
  """Returns a photograph in a mode of Pillow's; None keeps its own."""
  folder = importlib.resources.files(optional.load('skimage.data'))
  with folder.joinpath(name).open('rb') as f:
    image = Image.open(f)
    image.load()
  return image.convert(mode) if mode else image


def odds() -> np.ndarray:
  """Returns the share of each photograph of `PUBLIC`, in its order."""
  return np.array([*PUBLIC.values()]) / sum(PUBLIC.values())
