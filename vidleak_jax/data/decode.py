"""Decodes video files with PyAV."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vidleak_jax.data.clips import Pick, Unusable


class Facts(NamedTuple):
  """What is known of a file without decoding it all."""
  num_frames: int
  fps: float
  height: int
  width: int


@contextlib.contextmanager
def _open(path: Path) -> Iterator[tuple[Any, Any]]:
  import av
  try:
    with av.open(str(path)) as container:
      if not container.streams.video:
        raise Unusable('holds no video stream')
      stream = container.streams.video[0]
      stream.codec_context.thread_count = 1  # the same frames on any machine
      yield container, stream
  except av.FFmpegError as error:
    raise Unusable(f'cannot be decoded ({error.strerror})') from error


def probe(path: Path) -> Facts:
  """Counts the frames by walking the file; decodes only the first one.

  Raises:
    Unusable: if the file is no video, or was cut off.
  """
  with _open(path) as (container, stream):
    first = next(container.decode(stream), None)
    if first is None or first.is_corrupt:
      raise Unusable('holds no frame that can be decoded')
    promised = stream.frames  # 0 where the container does not say
    fps = float(stream.average_rate or 0)
  with _open(path) as (container, stream):
    count = sum(packet.size > 0 for packet in container.demux(stream))
  # Sound files may lack a frame or two; a download that broke off lacks more.
  if count < 0.95 * promised:
    raise Unusable(f'is truncated: its header promises {promised} frames, '
                   f'{count} are there')
  return Facts(count, fps, first.height, first.width)


def read(path: Path, count: int, pick: Pick) -> tuple[int, list[np.ndarray]]:
  """Decodes the frames that `pick(count)` asks for, in display order.

  It decodes from the start and never seeks: time stamps are wrong in XviD files
  with packed B-frames (such as UCF101's), the decoder's own order is right.

  Returns:
    The first index and uint8 RGB frames [H, W, 3].

  Raises:
    Unusable: if the file cannot be decoded or has too few frames.
  """
  wanted = pick(count)
  last = max(wanted)  # references may be asked for in any order
  frames: dict[int, np.ndarray] = {}
  good = 0
  with _open(path) as (container, stream):
    for frame in container.decode(stream):
      if frame.is_corrupt:
        break
      if good in wanted:
        frames[good] = _upright(frame)
      good += 1
      if good > last:
        return int(wanted[0]), [frames[i] for i in wanted]
  # The container promised more frames than it holds: pick among those.
  return read(path, good, pick)


def stream(path: Path) -> Iterator[np.ndarray]:
  """All frames, uint8 RGB [H, W, 3], one after another in display order.

  Raises:
    Unusable: if the file cannot be decoded.
  """
  with _open(path) as (container, found):
    for frame in container.decode(found):
      if frame.is_corrupt:
        return
      yield _upright(frame)


def _upright(frame: Any) -> np.ndarray:
  """RGB, turned as the file's display matrix asks (telephones write one)."""
  turns = round(frame.rotation / 90)
  return np.ascontiguousarray(np.rot90(frame.to_ndarray(format='rgb24'), turns))
