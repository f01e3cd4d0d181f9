"""Super-resolution alone: files in, a file out."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vidleak_jax import files, superres, video
from vidleak_jax.data import decode
from vidleak_jax.data.clips import Unusable
from vidleak_jax.runtime import parallel
from vidleak_jax.runtime.session import Report
from vidleak_jax.types import UserError

_FPS = 8.0   # of what does not say
_BLOCK = 16  # frames enlarged at once: memory does not grow with the video


class Clips(NamedTuple):
  """What is to be enlarged; frames are float32 [H, W, C] in [0, 1]."""
  clips: Iterable[Iterable[np.ndarray]]
  num_clips: int
  num_frames: int    # of each, as far as the file says
  fps: float


def run(source: Path, target: Path, references: Sequence[Path] = (), *,
        weights: str | None = None, scale: int = 4, noise: float = 0.0,
        adapt_steps: int = 300, tile: int = 128, batch_size: int = 4,
        num_devices: int = 0, progress: Report | None = None
        ) -> tuple[int, ...]:
  """Enlarges a file, some frames at a time.

  Args:
    source: a video, an image, or an .npz with `clips` [N, T, H, W, C] in
      [0, 1], such as recovered.npz.
    target: .npz (`enhanced`), .mp4 (clips one after another), or .png (first
      frame of the first clip). An .npz is held in memory, an .mp4 is not.
    references: images or videos (all frames), of the enlarged size; they serve
      every clip.
    weights: as in `superres.scene`, like scale, noise, adapt_steps, tile and
      batch_size.
    num_devices: 0 takes all.
    progress: hears how far the work has come, see `session.Report`.

  Returns:
    The shape [N, T, H, W, C] of what was enlarged.

  Raises:
    UserError: for files that cannot be read or written so, and as
      `superres.enhance`.
  """
  if target.suffix not in _WRITERS:
    raise UserError(f'The output is {target.name!r}; it can be '
                    f'{", ".join(_WRITERS)}.')
  video = read(source)
  net, _ = superres.load(weights, scale)

  enlarge = superres.scene(
      _reference_frames(references), weights=weights, scale=scale, noise=noise,
      adapt_steps=adapt_steps, tile=tile, batch_size=batch_size,
      devices=parallel.pick_devices(num_devices), progress=progress)
  try:
    target.parent.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f'There can be no folder {target.parent}: {error}. Choose '
                    'another output.') from error
  done, shape = 0, ()
  with _WRITERS[target.suffix](target, video) as write:
    for clip in video.clips:
      for frames, first, count in pieces(clip, _BLOCK, net.frames // 2):
        large = enlarge(frames[None])[0, first:first + count]
        write(large)
        done, shape = done + count, large.shape[1:]
        if progress:
          progress('enhance', done, video.num_clips * video.num_frames)
  return video.num_clips, done // video.num_clips, *shape


def pieces(frames: Iterable[np.ndarray], size: int, context: int
           ) -> Iterator[tuple[np.ndarray, int, int]]:
  """Cuts a clip into pieces that know their neighbours.

  Yields:
    (frames [F, H, W, C], first, count): the piece's own are `count` frames from
    `first`; up to `context` more stand before and after them.
  """
  buffer, first = [], 0
  for frame in frames:
    buffer.append(frame)
    if len(buffer) == first + size + context:
      yield np.stack(buffer), first, size
      kept = min(context, first + size)
      buffer, first = buffer[first + size - kept:], kept
  if len(buffer) > first:
    yield np.stack(buffer), first, len(buffer) - first


def read(path: Path) -> Clips:
  """Opens a file of clips.

  Raises:
    UserError: for what is missing, broken, or holds no clips.
  """
  if not path.is_file():
    raise UserError(f'There is no file {path}.')
  try:
    if path.suffix == '.npz':
      with np.load(path, allow_pickle=False) as archive:
        clips = archive['clips'].astype(np.float32)
      if clips.ndim != 5 or not clips.size:
        raise UserError(f'`clips` in {path} must be [N, T, H, W, C], got '
                        f'{clips.shape}.')
      return Clips(clips, clips.shape[0], clips.shape[1], _FPS)
    if path.suffix.lower() in decode.IMAGES:
      image = decode.read_image(path).astype(np.float32) / 255
      return Clips([[image]], 1, 1, _FPS)
    facts = decode.probe(path)
  except (Unusable, OSError, KeyError, ValueError) as error:
    if isinstance(error, UserError):
      raise
    raise _unusable(path, error) from error
  return Clips([_floats(path)], 1, facts.num_frames, facts.fps or _FPS)


def _floats(path):
  try:
    for frame in decode.stream(path):
      yield frame.astype(np.float32) / 255
  except Unusable as error:
    raise _unusable(path, error) from error


def _unusable(path, error):
  return UserError(f'{path} cannot be used: {error}. Give a video, an image, '
                   'or an .npz with `clips`.')


def _reference_frames(paths) -> np.ndarray | None:
  """All frames of the reference files, [R, H, W, C]."""
  if not paths:
    return None
  frames = [np.asarray(frame) for path in paths
            for clip in read(path).clips for frame in clip]
  sizes = {frame.shape for frame in frames}
  if len(sizes) > 1:
    raise UserError(f'The references differ in size: {sorted(sizes)}. Crop '
                    'and resize them as the enlarged clip.')
  return np.stack(frames)


@contextmanager
def _npz_writer(target, video):
  blocks: list[np.ndarray] = []
  yield blocks.append
  frames = np.concatenate(blocks)
  files.write_arrays(target, enhanced=frames.reshape(
      video.num_clips, -1, *frames.shape[1:]))


@contextmanager
def _png_writer(target, video):
  from PIL import Image
  first: list[np.ndarray] = []
  yield lambda frames: first.extend(frames[:1 - len(first)])
  with files.replacing(target) as partial:
    Image.fromarray(_pixels(first[0])).save(partial)


@contextmanager
def _mp4_writer(target, found):
  with files.replacing(target) as partial, video.writer(
      partial, found.fps) as append:
    yield lambda frames: [append(_pixels(frame)) for frame in frames]


def _pixels(frame):
  return np.ascontiguousarray(np.round(255 * frame).astype(np.uint8))


_WRITERS = {'.npz': _npz_writer, '.mp4': _mp4_writer, '.png': _png_writer}
