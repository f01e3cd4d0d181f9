"""Writes videos; the only encoder of the package."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import numpy as np

from vidleak_jax import optional

_BITS = 16_000_000  # a second, without libx264


def codec() -> str:
  """Returns `h264`, or `mpeg4` where PyAV has no libx264."""
  av = optional.load('av')
  return 'h264' if 'libx264' in av.codecs_available else 'mpeg4'


@contextmanager
def writer(path: Path, fps: float) -> Iterator[Callable[[np.ndarray], None]]:
  """Yields a function that appends a frame to an MP4 file.

  Frames are uint8 [H, W, 3], all of one size. Chroma is stored at half size, so
  an odd last row or column is left out.

  Args:
    path: the file; it is whole when the context has ended without an error.
    fps: frames per second.
  """
  av = optional.load('av')
  with av.open(str(path), 'w', format='mp4',
               options={'movflags': 'faststart'}) as file:
    rate = Fraction(float(fps)).limit_denominator(1000)
    stream = file.add_stream(
        'libx264' if codec() == 'h264' else 'mpeg4', rate)
    stream.pix_fmt = 'yuv420p'
    if codec() == 'h264':
      stream.options = {'crf': '16', 'preset': 'veryfast'}
    else:
      stream.bit_rate = _BITS

    def append(frame):
      height, width = (n - n % 2 for n in frame.shape[:2])
      if not stream.codec_context.is_open:
        stream.height, stream.width = height, width
      file.mux(stream.encode(av.VideoFrame.from_ndarray(
          np.ascontiguousarray(frame[:height, :width]))))
    yield append
    file.mux(stream.encode())
