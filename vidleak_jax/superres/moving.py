"""Moving pictures to train on, cut from photographs.

The photographs are those in scikit-image's wheel that `photo_motion` does not
test on. A view pans and zooms over one of them, and on half of the clips an
ellipse shows another one in another motion, so that neighbours do not always
agree.
"""

from collections.abc import Iterator

import numpy as np
from PIL import Image

from vidleak_jax import photos

_MAX_SPEED = 0.05  # of the view's side, a frame


def clips(num_clips: int, num_frames: int, size: int,
          seed: int) -> Iterator[np.ndarray]:
  """Yields uint8 [num_frames, size, size, 3]; clip i depends on (seed, i)."""
  for i in range(num_clips):
    rng = np.random.default_rng([seed, i])
    names = rng.choice([*photos.PUBLIC], 2, p=photos.odds())
    back, front = (photos.load(str(name)) for name in names)
    clip = view(back, num_frames, size, rng)
    if rng.random() < 0.5:
      mask = ellipse(num_frames, size, rng)
      moving = view(front, num_frames, size, rng)
      clip = np.where(mask[..., None], moving, clip)
    yield clip


def view(photo: Image.Image, num_frames: int, size: int,
         rng: np.random.Generator) -> np.ndarray:
  """A square view that drifts and zooms, antialiased as the data stage does."""
  limit = min(photo.size) - 1
  side = limit * rng.uniform(min(1, 1.2 * size / limit), 1)
  time = np.arange(num_frames)
  sides = np.minimum(side * (1 + rng.normal(0, 0.01) * time), limit)
  room = np.array(photo.size) - sides.max()
  speed = rng.uniform(-1, 1, 2) * _MAX_SPEED * side * (rng.random() < 0.75)
  path = rng.uniform(0, 1, 2) * room + speed * time[:, None]
  path = np.clip(path, 0, room)
  return np.stack([
      np.asarray(photo.resize((size, size), Image.Resampling.BICUBIC,
                              box=(x, y, x + s, y + s)))
      for (x, y), s in zip(path, sides)])


def ellipse(num_frames: int, size: int, rng: np.random.Generator) -> np.ndarray:
  """A drifting ellipse, bool [num_frames, size, size]."""
  time = np.arange(num_frames)[:, None, None]
  radius = rng.uniform(0.1, 0.45, 2) * size
  centre, speed = rng.uniform(0, size, 2), rng.normal(0, 0.02 * size, 2)
  y, x = (np.arange(size) for _ in range(2))
  dy = (y[None, :, None] - centre[0] - speed[0] * time) / radius[0]
  dx = (x[None, None, :] - centre[1] - speed[1] * time) / radius[1]
  return dy ** 2 + dx ** 2 < 1
