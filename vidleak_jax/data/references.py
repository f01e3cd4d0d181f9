"""Reference frames: real frames of a clip's scene that the attacker holds."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vidleak_jax import types
from vidleak_jax.data import clips, decode


def read(
    clip: clips.Clip, span: int, count: int, given: Sequence[str], seed: int,
) -> tuple[list[np.ndarray], tuple[int | None, ...]]:
  """Returns the reference frames of one clip, and how far away they are.

  Args:
    clip: the attacked one.
    span: frames of the video from its first to its last, those that a stride
      leaves out included.
    count: frames to draw from outside the span.
    given: instead of those, frame numbers in the video and paths of images.
    seed: of the draw.

  Returns:
    R frames, uint8 [H, W, 3], and R distances: frames to the nearest one of
    the clip, 1 for a neighbour; None for a file of its own.

  Raises:
    UserError: for a frame that is not there, or lies inside the clip.
  """
  numbers = [int(each) for each in given if str(each).isdigit()]
  paths = [Path(each) for each in given if not str(each).isdigit()]
  same = [path for path in paths if clip.video.file == path.resolve()]
  numbers += [0] * len(same)  # the first frame of a file is what is read
  paths = [path for path in paths if path not in same]
  _check_outside(clip, span, numbers)
  frames, distances = [], []
  try:
    if numbers or (count and not given):
      pick = clips.at(numbers) if numbers else clips.outside(
          clip.start, span, count, seed, clip.start)
      picked = []  # the reader alone knows how many frames there are

      def note(length):
        picked[:] = pick(length)
        return np.asarray(picked)
      frames += clip.video.read(note)[1]
      distances += [_distance(clip.start, span, int(i)) for i in picked]
    for path in paths:
      frames += decode.read(path, 1, clips.at([0]))[1]
      distances.append(None)
  except clips.Unusable as reason:
    origin = ', '.join(map(str, paths)) or clip.video.name
    raise types.UserError(
        f'No reference frames from {origin}: it {reason}. Ask for fewer, or '
        'name others.') from reason
  return frames, tuple(distances)


def square(frames: list[np.ndarray], size: int) -> np.ndarray:
  """Returns the frames cropped as clips are, float32 [R, size, size, 3]."""
  if not frames:
    return np.zeros((0, size, size, 3), np.float32)
  return np.stack([clips.square([frame], size)[0] for frame in frames])


def _check_outside(clip, span, numbers):
  inside = [i for i in numbers if clip.start <= i < clip.start + span]
  if inside:
    raise types.UserError(
        f'Reference frame {inside[0]} lies inside the attacked clip '
        f'{clip.video.name}, frames {clip.start} to {clip.start + span - 1}: '
        'it would hand the truth to the attacker. Name frames outside it, or '
        'set superres.num_references, which draws from outside.')


def _distance(start, span, index):
  return start - index if index < start else index - (start + span - 1)
