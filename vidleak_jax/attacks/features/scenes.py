"""Public scenes to train a decoder on, drawn without end.

Objects move before a background, seen by a camera that rests or moves. All are
covered with photographs of scikit-image's wheel that `photo_motion` does not
test on, with dead leaves (discs that hide one another, whose statistics are
those of natural pictures) or with 1/f noise, and light varies.
"""

from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageDraw

from vidleak_jax import photos

_SIDE = 128  # of a texture
_DRAWN = 2   # a frame is drawn this much larger, then averaged


def scenes(num_scenes: int, num_frames: int, num_references: int, size: int,
           seed: int, num_textures: int = 400) -> Iterator[np.ndarray]:
  """Yields uint8 [num_frames + num_references, size, size, 3].

  First a clip, then frames of the same scene from outside the clip, spread
  over a longer time. Scene i depends on (seed, i) only.
  """
  rng = np.random.default_rng([seed, 0])
  textures = [texture(rng) for _ in range(num_textures)]
  for i in range(num_scenes):
    rng = np.random.default_rng([seed, 1, i])
    step = rng.choice((0.01, 0.03))
    clip = rng.uniform(-0.8, 0.8) + step * np.arange(num_frames)
    apart = rng.uniform(0.2, 1) * (np.arange(num_references) + rng.uniform(
        0, 1, num_references) - num_references / 2)
    apart += np.where(apart < 0, clip[0] - step, clip[-1] + step)
    yield _scene(textures, [*clip, *apart], size, rng)


def texture(rng: np.random.Generator) -> Image.Image:
  """One of the three kinds."""
  kind = rng.choice(3, p=(0.5, 0.4, 0.1))
  return (_photo, _leaves, _noise)[kind](rng)


def _scene(textures, times, size, rng):
  side = _DRAWN * size
  front = rng.integers(5)
  cover = [textures[i] for i in rng.integers(len(textures), size=front + 1)]
  camera = _motion(rng, 0.08) if rng.random() < 0.5 else np.zeros((2, 4))
  view = _view(rng, _SIDE / side * rng.uniform(0.4, 0.8))
  speed = rng.choice((0.02, 0.08, 0.25))
  parts = [(_blob(rng), _view(rng, rng.uniform(0.4, 1.0)),
            _place(rng), _motion(rng, speed)) for _ in cover[1:]]
  light = _light(rng)
  frames = []
  for t in times:
    shake = _at(camera, t)
    frame = _look(cover[0], side, view, shake * [side, side, 1, 1])
    for skin, (blob, own, place, motion) in zip(cover[1:], parts):
      at = place + _at(motion, t) + shake
      mask = _mask(blob, at, side)
      frame.paste(_look(skin, side, own, at * [-side, -side, 1, 1]), mask=mask)
    frame = np.asarray(frame.resize((size, size), Image.Resampling.BOX))
    frames.append(light(frame))
  return np.stack(frames)


def _view(rng, scale):
  """(x, y, scale, angle) at which a texture is looked at."""
  return np.array([*rng.uniform(0.35, 0.65, 2) * _SIDE, scale, 0.0])


def _place(rng):
  """(x, y, log size, angle) of an object, in sides of the frame."""
  return np.array([rng.uniform(0, 1), rng.normal(0.6, 0.25),
                   np.log(rng.uniform(0.08, 0.4)), rng.normal(0, 0.3)])


def _motion(rng, speed):
  """A drift and a swing of (x, y, log size, angle)."""
  return rng.normal(0, speed, (2, 4)) * [1, 0.6, 0.7, 1.5]


def _at(motion, t):
  return motion[0] * t + motion[1] * np.sin(4 * t)


def _look(picture, side, view, shift):
  x, y, scale, angle = view
  scale, angle = scale * np.exp(shift[2] * 0.5), angle + shift[3]
  x, y = x + scale * shift[0] * 0.5, y + scale * shift[1] * 0.5
  cos, sin, half = scale * np.cos(angle), scale * np.sin(angle), side / 2
  # The texture is mirrored at its border by being tiled with its mirror image.
  affine = cos, -sin, x - (cos - sin) * half, sin, cos, y - (sin + cos) * half
  return picture.transform((side, side), Image.Transform.AFFINE, affine,
                           Image.Resampling.BILINEAR)


def _blob(rng):
  """A round outline: radius by angle, taller than wide."""
  angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
  radius = 1 + sum(rng.normal(0, 0.35 / k) * np.sin(k * angle + rng.uniform(
      0, 2 * np.pi)) for k in range(1, 6))
  stretch = np.exp(rng.normal(0.25, 0.35))
  return np.stack([radius * np.cos(angle) / stretch,
                   radius * np.sin(angle) * stretch], 1)


def _mask(blob, at, side):
  x, y, size, angle = at
  cos, sin = np.cos(angle), np.sin(angle)
  points = blob @ [[cos, sin], [-sin, cos]] * np.exp(size) + (x, y)
  mask = Image.new('L', (side, side))
  ImageDraw.Draw(mask).polygon([tuple(p) for p in points * side], fill=255)
  return mask


def _light(rng):
  """Gain, tint and gamma of a camera, from uint8 to uint8."""
  gain = rng.uniform(0.5, 1.15) * np.exp(rng.normal(0, 0.08, 3))
  gamma = np.exp(rng.normal(0, 0.2))
  lift = rng.uniform(0, 0.2) * (rng.random() < 0.5)
  if rng.random() < 0.05:
    gain[:] = gain.mean()
  levels = np.arange(256)[:, None] / 255
  table = np.clip(lift + (1 - lift) * gain * levels ** gamma, 0, 1)
  table = np.rint(table * 255).astype(np.uint8)
  return lambda frame: np.stack(
      [table[frame[..., c], c] for c in range(3)], -1)


def _photo(rng):
  photo = photos.load(str(rng.choice([*photos.PUBLIC], p=photos.odds())))
  side = min(photo.size) * rng.uniform(0.25, 1)
  x, y = rng.uniform(0, 1, 2) * (np.array(photo.size) - side)
  photo = photo.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC,
                       box=(x, y, x + side, y + side))
  array = np.asarray(photo)
  if rng.random() < 0.5:
    array = array[:, ::-1]
  if rng.random() < 0.3:
    array = array[..., rng.permutation(3)]
  return _tile(array)


def _leaves(rng):
  picture = Image.new('RGB', (_SIDE, _SIDE), _colour(rng, 0.2))
  draw = ImageDraw.Draw(picture)
  spread = rng.uniform(0.05, 0.3)
  for _ in range(rng.integers(10, 120)):
    radius = np.minimum(3 / rng.uniform(0.02, 1) ** 0.8, 70) * np.exp(
        rng.normal(0, 0.4, 2))
    centre = rng.uniform(-10, _SIDE + 10, 2)
    box = [*(centre - radius), *(centre + radius)]
    colour = _colour(rng, spread)
    (draw.ellipse if rng.random() < 0.5 else draw.rectangle)(box, fill=colour)
  array = np.asarray(picture, float)
  down = np.linspace(1, rng.uniform(0.4, 1), _SIDE)[:, None, None]
  return _tile((array * (down if rng.random() < 0.5 else down[::-1]))
               .astype(np.uint8))


def _colour(rng, spread):
  colour = rng.beta(1.2, 1.4) * 255 * (1 + rng.normal(0, spread, 3))
  return tuple(int(c) for c in np.clip(colour, 0, 255))


def _noise(rng):
  frequency = np.hypot(np.fft.fftfreq(_SIDE)[:, None],
                       np.fft.rfftfreq(_SIDE)) + 1 / _SIDE
  white = rng.normal(size=(3, _SIDE, _SIDE))
  white = rng.normal(0, 0.7) * white[:1] + 0.5 * white
  field = np.fft.irfft2(np.fft.rfft2(white) / frequency ** rng.uniform(1, 2))
  field = field / field.std() * rng.uniform(20, 60) + rng.uniform(60, 200)
  return _tile(np.clip(field, 0, 255).transpose(1, 2, 0).astype(np.uint8))


def _tile(array):
  return Image.fromarray(np.ascontiguousarray(array))
