"""comparison.mp4: truth, recovery and enhancement side by side."""

import math
from fractions import Fraction
from pathlib import Path

import numpy as np

from vidleak_jax import optional
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
  av = optional.load('av')
  views = {k: views[k][:MAX_ROWS] for k in PANELS if k in views}
  codec = 'libx264' if 'libx264' in av.codecs_available else 'mpeg4'
  base, panels = _background(views, names)
  length = next(iter(views.values())).shape[1]
  repeats = math.ceil(SECONDS * fps / length)
  still = [_frame(base, panels, views, t) for t in range(length)]
  rate = Fraction(float(fps)).limit_denominator(1000)
  with av.open(str(path), 'w', format='mp4',
               options={'movflags': 'faststart'}) as file:
    stream = file.add_stream(codec, rate)
    stream.width, stream.height = base.size
    stream.pix_fmt = 'yuv420p'
    if codec == 'libx264':
      stream.options = {'crf': '16', 'preset': 'veryfast'}
    else:
      stream.bit_rate = 8_000_000
    for picture in still * repeats:
      file.mux(stream.encode(av.VideoFrame.from_image(picture)))
    file.mux(stream.encode())
  return 'h264' if codec == 'libx264' else codec


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
