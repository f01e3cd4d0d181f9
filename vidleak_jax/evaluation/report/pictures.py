"""Clips as pictures: strips of frames, and the sheet comparison.png.

A view is uint8 [n, T, H, W, 3] under its name, such as `truth`.
"""

import io
from pathlib import Path

import numpy as np

DIFFERENCE_GAIN = 4
DIFFERENCE = f'difference x{DIFFERENCE_GAIN}'
TILE = 128   # pixels; the height of a frame on the sheet, about
STRIP = 160  # pixels; the most a frame of a strip has
INK, QUIET, PAPER = '#16181d', '#6b7280', '#ffffff'


def to_uint8(clips: np.ndarray) -> np.ndarray:
  """[..., C] floats in [0, 1], C 1 or 3, as [..., 3] uint8."""
  pixels = np.round(np.clip(clips, 0, 1) * 255).astype(np.uint8)
  return np.broadcast_to(pixels, (*pixels.shape[:-1], 3))


def spread(count: int, most: int) -> list[int]:
  """At most `most` indices, evenly over `range(count)`, both ends included."""
  return [int(i) for i in np.linspace(0, count - 1, min(count, most)).round()]


def resize(frame: np.ndarray, size: tuple[int, int]):
  """A frame as a picture of (width, height): larger by repeating pixels, so
  that nothing is invented, smaller by averaging them."""
  from PIL import Image
  picture = Image.fromarray(np.ascontiguousarray(frame))
  shrinks = size[1] < picture.height
  return picture.resize(
      size, Image.Resampling.BOX if shrinks else Image.Resampling.NEAREST)


def tile_size(views: dict[str, np.ndarray], height: int = TILE):
  """(width, height) of every frame: a whole multiple of the largest view, so
  that its pixels stay square, near `height` and at most twice that."""
  rows, columns = max(view.shape[2:4] for view in views.values())
  scale = min(max(1, round(height / rows)), 2 * height / rows)
  return max(1, round(columns * scale)), max(1, round(rows * scale))


def strip(clip: np.ndarray, frames: list[int]) -> bytes:
  """A PNG of the frames side by side, each at most STRIP high."""
  from PIL import Image
  rows, columns = clip.shape[1:3]
  high = min(rows, STRIP)
  wide = max(1, round(columns * high / rows))
  pitch = wide + max(1, wide // 32)  # the gap is transparent
  picture = Image.new('RGBA', (pitch * len(frames), high))
  for i, frame in enumerate(frames):
    picture.paste(resize(clip[frame], (wide, high)), (i * pitch, 0))
  file = io.BytesIO()
  picture.save(file, format='PNG', optimize=True)
  return file.getvalue()


def font(size: int):
  """Pillow's own font, so that labels need no font on the machine."""
  from PIL import ImageFont
  return ImageFont.load_default(size)


def save_sheet(path: Path, views: dict[str, np.ndarray], names, frames):
  """Writes comparison.png: a block for each clip, a row for each view, a
  column for each frame."""
  from PIL import Image, ImageDraw
  wide, high = tile_size(views)
  left, top, gap, margin = 120, 68, 4, 24
  shown = len(next(iter(views.values())))
  block = top + len(views) * (high + gap)
  width = left + len(frames) * (wide + gap) + margin
  sheet = Image.new('RGB', (width, shown * block + margin), PAPER)
  draw = ImageDraw.Draw(sheet)
  for clip in range(shown):
    y = clip * block
    draw.text((margin, y + 20), str(names[clip]), INK, font(18))
    for column, frame in enumerate(frames):
      draw.text((left + column * (wide + gap) + wide / 2, y + top - 4),
                f'frame {frame}', QUIET, font(12), anchor='ms')
    for row, (label, view) in enumerate(views.items()):
      at = y + top + row * (high + gap)
      draw.text((margin, at + high / 2), label, INK, font(14), anchor='lm')
      for column, frame in enumerate(frames):
        sheet.paste(resize(view[clip, frame], (wide, high)),
                    (left + column * (wide + gap), at))
  sheet.save(path, format='PNG')
