"""Decodes video files with PyAV, images with Pillow, and folders of frames."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vidleak_jax import optional
from vidleak_jax.data.clips import Pick, Unusable

IMAGES = ('.bmp', '.jpeg', '.jpg', '.png')
_FLOW = re.compile(r'(flow_)?[xy]_\d+\.')  # optical flow beside the frames
MAX_PIXELS = 2 ** 26  # of a frame, 8192x8192: a header may claim any size


class Facts(NamedTuple):
  """What is known of a file without decoding it all."""
  num_frames: int
  fps: float
  height: int
  width: int


@contextlib.contextmanager
def _open(path: Path) -> Iterator[tuple[Any, Any]]:
  av = optional.load('av')
  try:
    with av.open(str(path)) as container:
      if not container.streams.video:
        raise Unusable('holds no video stream')
      stream = container.streams.video[0]
      check_size(stream.codec_context.height, stream.codec_context.width)
      stream.codec_context.thread_count = 1  # the same frames on any machine
      yield container, stream
  except av.FFmpegError as error:
    raise Unusable(f'cannot be decoded ({error.strerror})') from error


def check_size(height: int, width: int) -> None:
  """Raises Unusable for frames of more than MAX_PIXELS."""
  if height * width > MAX_PIXELS:
    raise Unusable(
        f'has frames of {width}x{height}, more than {MAX_PIXELS} pixels. '
        'Shrink them first: clips are small')


def read_image(path: Path) -> np.ndarray:
  """Returns an image file as uint8 RGB [H, W, 3], upright.

  Raises:
    Unusable: if it is no image, is cut off, or has more than MAX_PIXELS.
  """
  from PIL import Image, ImageOps
  try:
    with Image.open(path) as image:
      check_size(image.height, image.width)
      return np.asarray(ImageOps.exif_transpose(image).convert('RGB'))
  except (OSError, ValueError, SyntaxError,
          Image.DecompressionBombError) as error:
    raise Unusable(f'cannot be read as an image ({error})') from error


def list_frames(folder: Path) -> list[Path]:
  """Returns the images of a folder that holds nothing else, in natural order.

  Names count as people count: 1, 2, 10. Hidden files are ignored, and so is
  optical flow, flow_x_00001.jpg and the like.

  Returns:
    [] where the folder holds other files, or folders.
  """
  entries = [each for each in folder.iterdir()
             if not each.name.startswith('.') and not _FLOW.match(each.name)]
  if not all(each.is_file() and each.suffix.lower() in IMAGES
             for each in entries):
    return []
  return sorted(entries, key=_natural)


def _natural(path):
  parts = re.split(r'(\d+)', path.name)
  return [int(x) if x.isdigit() else x for x in parts], path.name


def _probe_frames(folder):
  """As `probe`: frames of one size, of no known rate."""
  frames = list_frames(folder)
  height, width = read_image(frames[0]).shape[:2]
  return Facts(len(frames), 0.0, height, width)


def _read_frames(folder, pick):
  frames = list_frames(folder)
  wanted = pick(len(frames))
  images = [_named(frames[i]) for i in wanted]
  if len({image.shape for image in images}) > 1:
    raise Unusable('holds frames of several sizes: '
                   f'{sorted({image.shape[:2] for image in images})}')
  return int(wanted[0]), images


def _named(path):
  try:
    return read_image(path)
  except Unusable as error:
    raise Unusable(f'has a frame {path.name} that {error}') from error


def probe(path: Path) -> Facts:
  """Counts the frames by walking the file; decodes only the first one.

  Args:
    path: a video file, an image, or a folder of images.

  Raises:
    Unusable: if the file is no video, or was cut off.
  """
  if path.is_dir():
    return _probe_frames(path)
  if path.suffix.lower() in IMAGES:
    return Facts(1, 0.0, *read_image(path).shape[:2])
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

  Args:
    path: a video file, an image, or a folder of images.
    count: frames that it holds, as far as is known.
    pick: the indices wanted, in any order.

  Returns:
    The first index and uint8 RGB frames [H, W, 3].

  Raises:
    Unusable: if the file cannot be decoded or has too few frames.
  """
  if path.is_dir():
    return _read_frames(path, pick)
  if path.suffix.lower() in IMAGES:
    pick(1)
    return 0, [read_image(path)]
  wanted = pick(count)
  last = max(wanted)  # references may be asked for in any order
  frames: dict[int, np.ndarray] = {}
  good = 0
  with _open(path) as (container, stream):
    for frame in container.decode(stream):
      if frame.is_corrupt:
        break
      if good in wanted:
        check_size(frame.height, frame.width)  # it may change on the way
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
      check_size(frame.height, frame.width)
      yield _upright(frame)


def _upright(frame: Any) -> np.ndarray:
  """RGB, turned as the file's display matrix asks (telephones write one)."""
  turns = round(frame.rotation / 90)
  return np.ascontiguousarray(np.rot90(frame.to_ndarray(format='rgb24'), turns))
