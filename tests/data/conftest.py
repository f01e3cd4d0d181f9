"""Videos written by PyAV, and one cache folder for all tests of the stage."""

import functools
from pathlib import Path

import numpy as np
import pytest

from vidleak_jax import data


@pytest.fixture(scope='session')
def cache(tmp_path_factory):
  return str(tmp_path_factory.mktemp('tfds'))


@pytest.fixture(scope='session')
def load(cache):
  """`data.load` with small defaults and a cache folder of the tests' own."""
  return functools.partial(
      data.load, num_clips=1, num_frames=4, frame_stride=1, image_size=16,
      original_size=32, seed=0, data_dir=cache)


def write_video(path: Path, num_frames=12, size=(64, 48), codec='mpeg4',
                options=None, colour=None):
  """Frame t is of brightness 20 t, so that frames can be told apart."""
  import av
  path.parent.mkdir(parents=True, exist_ok=True)
  with av.open(str(path), 'w') as container:
    stream = container.add_stream(codec, rate=10, options=options or {})
    stream.width, stream.height = size
    stream.pix_fmt, stream.bit_rate = 'yuv420p', 4_000_000
    for t in range(num_frames):
      frame = np.full((size[1], size[0], 3), 20 * t % 256, np.uint8)
      if colour is not None:  # a mark in the upper left quarter
        frame[:size[1] // 2, :size[0] // 2] = colour
      container.mux(stream.encode(
          av.VideoFrame.from_ndarray(frame, format='rgb24')))
    container.mux(stream.encode())
  return path


@pytest.fixture(scope='session')
def video():
  return write_video


@pytest.fixture
def folder(tmp_path):
  """Two classes of two sound videos each, and one broken file."""
  for name in ('Dance', 'Swim'):
    for i in range(2):
      write_video(tmp_path / 'videos' / name / f'clip_{i}.avi')
  (tmp_path / 'videos/Swim/broken.avi').write_bytes(b'not a video' * 99)
  return tmp_path / 'videos'
