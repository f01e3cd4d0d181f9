"""`photo_motion`: a virtual camera moves over photographs; no download.

The photographs are those in scikit-image's wheel. The class is the motion *of
the camera*, so panning left moves the picture to the right. Train and test use
different photographs. A record holds the camera's path, and its frames are
rendered when they are read, so the set takes kilobytes.
"""

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from vidleak_jax import photos
from vidleak_jax.data import cache
from vidleak_jax.data.clips import Pick, Source, Video

SIZE = 160         # frames are SIZE x SIZE
NUM_FRAMES = 32
MOTIONS = ('pan_left', 'pan_right', 'pan_up', 'pan_down', 'zoom_in', 'zoom_out',
           'rotate_clockwise', 'rotate_counterclockwise', 'shake', 'still')
PHOTOS = {
    'train': ('astronaut.png', 'brick.png', 'coins.png', 'grass.png',
              'gravel.png', 'ihc.png', 'retina.jpg'),
    'test': ('camera.png', 'chelsea.png', 'coffee.png', 'motorcycle_left.png'),
}
CLIPS_PER_MOTION = {'train': 5, 'test': 3}  # of one photograph
_SHORT_SIDE = 300  # of a photograph, in the pixels that the camera moves over


class PhotoMotion(tfds.core.GeneratorBasedBuilder):
  """Ten camera motions over photographs, 350 clips to train and 120 to test."""

  VERSION = tfds.core.Version('1.0.0')

  def _info(self) -> tfds.core.DatasetInfo:
    return self.dataset_info_from_configs(
        description=__doc__,
        features=tfds.features.FeaturesDict({
            'name': tfds.features.Text(),
            'photo': tfds.features.Text(),
            'label': tfds.features.ClassLabel(names=MOTIONS),
            'path': tfds.features.Tensor(  # x, y, scale, angle: see `render`
                shape=(NUM_FRAMES, 4), dtype=np.float64, encoding='bytes'),
        }))

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
    return {split: self._generate_examples(split) for split in PHOTOS}

  def _generate_examples(self, split: str) -> Iterator[tuple[str, dict]]:
    for photo in PHOTOS[split]:
      for label, motion in enumerate(MOTIONS):
        for i in range(CLIPS_PER_MOTION[split]):
          name = f'{photo.partition(".")[0]}/{motion}_{i}'
          yield name, {
              'name': name, 'photo': photo, 'label': label,
              'path': camera_path(motion, photograph(photo).size,
                                  np.random.default_rng([*name.encode()]))}


def source(split: str, data_dir: str | None) -> Source:
  """The set's videos, 32 frames of 160x160; `split` is train, test or all."""
  builder = cache.prepared(
      lambda root: PhotoMotion(data_dir=root, file_format='array_record'),
      data_dir)
  videos = []
  for record in builder.as_data_source(cache.known_split(builder, split)):
    photo = record['photo'].decode()
    read = functools.partial(_read, photo, record['path'])
    videos.append(Video(record['name'].decode(), photo, int(record['label']),
                        read))
  return Source(videos, MOTIONS, {})


def camera_path(motion: str, size: tuple[int, int],
                rng: np.random.Generator) -> np.ndarray:
  """Draws one path over a photograph of `size` (width, height).

  Returns:
    float64 [NUM_FRAMES, 4]: the view's centre (x, y) and its scale, in pixels
    of the photograph, and its angle, in radians, clockwise. Views never leave
    the photograph, and the scale is at most 1, so nothing aliases.
  """
  time = np.linspace(0, 1, NUM_FRAMES)
  xy, zoom, angle = np.zeros((NUM_FRAMES, 2)), np.ones(NUM_FRAMES), 0 * time
  kind, _, way = motion.partition('_')
  if kind == 'pan':
    axis, sign = {'left': (0, -1), 'right': (0, 1),
                  'up': (1, -1), 'down': (1, 1)}[way]
    xy[:, axis] = sign * rng.uniform(60, 120) * time
  elif kind == 'zoom':
    rate = rng.uniform(1.5, 1.9)
    zoom = rate ** (-time if way == 'in' else time - 1)
  elif kind == 'rotate':
    sign = 1 if way == 'clockwise' else -1
    angle = sign * rng.uniform(0.7, 1.4) * time
  elif kind == 'shake':
    xy = rng.normal(0, 3, xy.shape).clip(-6, 6)
  scale = rng.uniform(0.75, 0.9) * zoom
  # Half the side of the upright square that holds the turned view, and the two
  # pixels more that bicubic sampling looks at.
  reach = SIZE / 2 * scale * (np.abs(np.cos(angle)) + np.sin(np.abs(angle))) + 2
  low = (reach[:, None] - xy).max(0)
  high = (np.array(size) - reach[:, None] - xy).min(0)
  return np.column_stack([xy + rng.uniform(low, high), scale, angle])


@functools.cache
def photograph(name: str) -> Image.Image:
  """A photograph, resized to a common short side."""
  image = photos.load(name, mode=None)
  scale = _SHORT_SIDE / min(image.size)
  return image.resize((round(image.width * scale), round(image.height * scale)),
                      Image.Resampling.LANCZOS)


def render(photo: Image.Image, view: np.ndarray) -> np.ndarray:
  """One frame, uint8 [SIZE, SIZE, 3]: the photograph as seen from `view`."""
  x, y, scale, angle = view
  cos, sin = scale * np.cos(angle), scale * np.sin(angle)
  half = SIZE / 2
  affine = (cos, -sin, x - (cos - sin) * half, sin, cos, y - (sin + cos) * half)
  frame = photo.transform((SIZE, SIZE), Image.Transform.AFFINE, affine,
                          Image.Resampling.BICUBIC)
  return np.asarray(frame.convert('RGB'))  # some photographs are grey


def _read(photo: str, path: np.ndarray,
          pick: Pick) -> tuple[int, list[np.ndarray]]:
  wanted = pick(NUM_FRAMES)
  return int(wanted[0]), [render(photograph(photo), path[i]) for i in wanted]
