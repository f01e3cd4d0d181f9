"""comparison.mp4: truth, recovery and enhancement side by side."""

import math
from pathlib import Path

import numpy as np

from vidleak_jax import video
from vidleak_jax.evaluation.report import pictures

PANELS = ('truth', 'recovery', 'enhanced')
MAX_ROWS = 4   # clips in the video, one below the other
HEIGHT = 256   # pixels of a panel, about
SECONDS = 3    # a shorter clip is repeated, or players show only a flash
BACK, INK = '#101216', '#e8eaed'
LABEL, GAP = 30, 8


def save(path: Path, views: dict[str, np.ndarray], names, fps: float) -> str:
  """Writes the video and returns its codec: h264, or mpeg4 without libx264.

  Args:
    path: where it goes.
    views: uint8 [n, T, H, W, 3] each.
    names: of the n clips.
    fps: frames per second; the clip is repeated for SECONDS or more.
  """
  views = {k: views[k][:MAX_ROWS] for k in PANELS if k in views}
  base, panels = _background(views, names)
  length = next(iter(views.values())).shape[1]
  repeats = math.ceil(SECONDS * fps / length)
  still = [_frame(base, panels, views, t) for t in range(length)]
  with video.writer(path, fps) as append:
    for picture in still * repeats:
      append(np.asarray(picture))
  return video.codec()


def _background(views, names):
  """The labelled picture without the clips, and where each clip goes."""
  from PIL import Image, ImageDraw
  wide, high = pictures.tile_size(views, HEIGHT)
  rows = len(next(iter(views.values())))
  width = GAP + len(views) * (wide + GAP)
  height = LABEL + rows * (high + LABEL + GAP)
  # Chroma is stored at half size, so both sides must be even.
  base = Image.new('RGB', (width + width % 2, height + height % 2), BACK)
  draw = ImageDraw.Draw(base)
  panels = {}
  for column, view in enumerate(views):
    x = GAP + column * (wide + GAP)
    draw.text((x + wide / 2, LABEL / 2 + 3), view, INK, pictures.font(18),
              anchor='mm')
    for row in range(rows):
      y = LABEL + row * (high + LABEL + GAP) + LABEL
      panels[view, row] = ((x, y), (wide, high))
  for row in range(rows):
    y = LABEL + row * (high + LABEL + GAP) + LABEL / 2
    draw.text((GAP, y), str(names[row]), INK, pictures.font(16), anchor='lm')
  return base, panels


def _frame(base, panels, views, t):
  picture = base.copy()
  for (view, row), (place, size) in panels.items():
    picture.paste(pictures.resize(views[view][row, t], size), place)
  return picture
