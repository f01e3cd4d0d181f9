"""From videos to clips: which frames, in which order, cut and resized how.

A *video* is anything that yields uint8 RGB frames [H, W, 3] by index; a clip
is `num_frames` of them, `frame_stride` apart, centre-cropped to a square.
"""

import collections
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

Pick = Callable[[int], np.ndarray]  # number of frames -> the indices wanted


class Unusable(Exception):
  """Why no clip can be cut from this video; the video is skipped and named."""


class Video(NamedTuple):
  """What clips are cut from."""
  name: str   # unique in its source
  scene: str  # videos of one scene look alike, so they never count as unrelated
  label: int
  # Gives the first index and the frames picked; raises Unusable.
  read: Callable[[Pick], tuple[int, list[np.ndarray]]]
  file: Path | None = None  # where it lies, if it is a file or folder


class Source(NamedTuple):
  """One split of a data set."""
  videos: list[Video]
  class_names: tuple[str, ...]  # empty where the set has no labels
  skipped: dict[str, str]       # name -> why


class Clip(NamedTuple):
  """Frames of a video, not yet cropped."""
  video: Video
  start: int
  frames: list[np.ndarray]  # uint8 [H, W, 3], as large as the video


def picker(num_frames: int, stride: int, *seed: int) -> Pick:
  """Picks frames from a start that depends on `seed` alone."""
  span = (num_frames - 1) * stride + 1

  def pick(count: int) -> np.ndarray:
    if count < span:
      raise Unusable(f'has {count} frames, but {num_frames} with stride '
                     f'{stride} need {span}')
    start = np.random.default_rng(seed).integers(count - span + 1)
    return start + stride * np.arange(num_frames)

  return pick


def outside(start: int, span: int, num_frames: int, *seed: int) -> Pick:
  """Picks frames that are not among the `span` from `start` on."""

  def pick(count: int) -> np.ndarray:
    rest = np.r_[0:start, start + span:count]
    if len(rest) < num_frames:
      raise Unusable(f'has {len(rest)} frames besides the clip, but '
                     f'{num_frames} references were asked for')
    return np.sort(np.random.default_rng(seed).choice(
        rest, num_frames, replace=False))

  return pick


def at(indices: list[int]) -> Pick:
  """Picks these frames."""

  def pick(count: int) -> np.ndarray:
    missing = [i for i in indices if not 0 <= i < count]
    if missing:
      raise Unusable(f'has {count} frames, reference {missing[0]} is not '
                     'among them')
    return np.asarray(indices)

  return pick


def forth_and_back(num_frames: int, stride: int, count: int) -> np.ndarray:
  """Picks frames from the first on, turning round at either end."""
  period = 2 * (count - 1)
  time = stride * np.arange(num_frames) % period
  return np.minimum(time, period - time)


def spread(videos: list[Video], seed: int) -> list[Video]:
  """Shuffles, then lets the classes take turns: the first K are K classes."""
  order = np.random.default_rng(seed).permutation(len(videos))
  seen: collections.Counter[int] = collections.Counter()
  rounds = []
  for i in order:
    rounds.append(seen[videos[i].label])
    seen[videos[i].label] += 1
  return [videos[order[i]] for i in np.argsort(rounds, kind='stable')]


def cut(videos: list[Video], positions: Iterable[int],
        pick: Callable[[int], Pick], skipped: dict[str, str]) -> Iterator[Clip]:
  """Yields a clip, `pick(i)`, of the usable videos at the positions i.

  Positions past the end start over. A video that cannot be used is put into
  `skipped` and not tried again; once none is left this ends.
  """
  for i in positions:
    if all(video.name in skipped for video in videos):
      return
    video = videos[i % len(videos)]
    if video.name in skipped:
      continue
    try:
      yield Clip(video, *video.read(pick(i)))
    except Unusable as reason:
      skipped[video.name] = str(reason)


def square(frames: list[np.ndarray], size: int) -> np.ndarray:
  """Centre-crops uint8 frames to squares and resizes them.

  The crop does not depend on `size`, so all sizes show the same picture.
  Bicubic with antialiasing, on 8 bits as cameras and players do it.

  Returns:
    float32 [T, size, size, 3] in [0, 1].
  """
  from PIL import Image
  clip = []
  for frame in frames:
    height, width = frame.shape[:2]
    side = min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    clip.append(np.asarray(Image.fromarray(frame).resize(
        (size, size), Image.Resampling.BICUBIC,
        box=(left, top, left + side, top + side))))
  return np.stack(clip).astype(np.float32) / 255
