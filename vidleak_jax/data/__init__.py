"""Data stage: the clips an audit is about, and those a victim is trained on.

Sets go by `data.name`: `photo_motion` is embedded, `video_folder` is the user's
own folder or file, any other name is a TFDS set. What TFDS prepares is kept in
`data_dir`, by default `$XDG_CACHE_HOME/vidleak_jax/tfds` (`~/.cache/...`).
"""

import functools
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vidleak_jax import types
from vidleak_jax.data import checks
from vidleak_jax.data import clips as clips_lib
from vidleak_jax.data import references as references_lib
from vidleak_jax.data.clips import Clip, Source, Video


class Sample(NamedTuple):
  """The clips of one audit; arrays are NumPy's."""
  batch: types.Batch     # clips [N, T, S, S, 3], labels [N]
  originals: np.ndarray  # float32 [N, T, L, L, 3], the same crop, more detail
  unrelated: np.ndarray  # float32 [N, T, S, S, 3], a clip of another scene each
  references: np.ndarray  # float32 [N, R, L, L, 3], what the attacker holds
  # [N][R] frames from a reference to the nearest one of its clip, 1 for a
  # neighbour; None for a file of its own
  reference_distances: tuple[tuple[int | None, ...], ...]
  names: tuple[str, ...]        # `video@start frame`
  class_names: tuple[str, ...]  # what the labels stand for
  skipped: tuple[str, ...]      # `video: why it could not be used`


def load(name: str, *, dir: str | None = None, split: str = 'test',
         num_clips: int, num_frames: int, frame_stride: int, image_size: int,
         original_size: int, seed: int, labels: str = 'dataset',
         num_classes: int | None = None, num_references: int = 0,
         references: Sequence[str] = (),
         data_dir: str | None = None) -> Sample:
  """Draws N clips.

  Videos are shuffled by the seed, then the classes take turns: the first N
  clips are of distinct classes if there are N classes, and of distinct videos
  if there are N videos. After the last video they start over from other frames.
  Clip i depends on (seed, i) only, so asking for more clips appends.

  Args:
    name: `photo_motion`, `video_folder` or a TFDS set.
    dir: for `video_folder` alone: a folder of class folders, or one file.
    split: of the set, or `all`; `video_folder.split_files` says how folders
      are split.
    num_clips: N.
    num_frames: T.
    frame_stride: 1 takes neighbouring frames, 2 every other one.
    image_size: S, the attacked resolution; even.
    original_size: L, even, at least S.
    seed: not negative.
    labels: `dataset`, or `random`: drawn from `num_classes`, distinct while
      they last (the paper draws them at random).
    num_classes: outputs of the victim; random labels need it.
    num_references: R, real frames of the same video that the attacker holds,
      drawn from outside the clip.
    references: instead of those, frame numbers in the video, paths of images.
      Numbers inside the attacked clip are refused: they would be the truth.
    data_dir: the cache folder.

  Returns:
    The sample. An unrelated clip shows another scene of the same split (another
    photograph, video, record). Where there is none it is a test clip of
    `photo_motion`, played forth and back if it is too short.

  Raises:
    UserError: if an argument is wrong, or no video can be used. Videos that are
      broken or too short are logged, and named in `skipped`.
  """
  checks.request(num_clips, num_frames, frame_stride, image_size, original_size,
                 seed)
  source = _open(name, dir, split, data_dir)
  class_names = checks.class_names(source, labels, num_classes)
  videos = clips_lib.spread(source.videos, seed)
  pick = functools.partial(clips_lib.picker, num_frames, frame_stride, seed)
  cuts = clips_lib.cut(videos, itertools.count(), pick, source.skipped)
  small, large, unrelated, held, distances = [], [], [], [], []
  chosen = []
  span = (num_frames - 1) * frame_stride + 1
  for clip in itertools.islice(cuts, num_clips):
    small.append(clips_lib.square(clip.frames, image_size))
    large.append(clips_lib.square(clip.frames, original_size))
    other = _unrelated(clip.video, videos, pick, source.skipped) or _stand_in(
        len(chosen), num_frames, frame_stride, seed, data_dir)
    unrelated.append(clips_lib.square(other.frames, image_size))
    frames, apart = references_lib.read(clip, span, num_references, references,
                                        seed)
    held.append(references_lib.square(frames, original_size))
    distances.append(apart)
    chosen.append(clip._replace(frames=clip.frames[:1]))  # the rest is large
  checks.usable(source.skipped, bool(chosen))
  checks.detail(chosen, original_size)
  if labels == 'random':
    drawn = np.random.default_rng(seed).permutation(num_classes)
    numbers = np.resize(drawn, num_clips)
  else:
    numbers = [clip.video.label for clip in chosen]
  return Sample(
      types.Batch(np.stack(small), np.array(numbers, np.int32)),
      np.stack(large), np.stack(unrelated), np.stack(held),
      tuple(distances),
      tuple(f'{clip.video.name}@{clip.start}' for clip in chosen), class_names,
      tuple(f'{video}: {why}' for video, why in source.skipped.items()))


def train_arrays(name: str, *, dir: str | None = None, split: str = 'train',
                 num_frames: int, frame_stride: int, image_size: int, seed: int,
                 limit: int | None = None, data_dir: str | None = None,
                 ) -> tuple[types.Batch, tuple[str, ...]]:
  """One clip of every video of a split, or of the first `limit`.

  Arguments, order and errors are those of `load`, so a limit keeps the classes
  balanced. All clips are in memory at once: 12 T S^2 bytes each.

  Returns:
    The batch (clips [N, T, S, S, 3], labels [N]) and the class names.
  """
  checks.request(1 if limit is None else limit, num_frames, frame_stride,
                 image_size, image_size, seed)
  source = _open(name, dir, split, data_dir)
  class_names = checks.class_names(source, 'dataset', None)
  videos = clips_lib.spread(source.videos, seed)
  pick = functools.partial(clips_lib.picker, num_frames, frame_stride, seed)
  clips, labels = [], []
  for clip in itertools.islice(clips_lib.cut(
      videos, range(len(videos)), pick, source.skipped), limit):
    clips.append(clips_lib.square(clip.frames, image_size))
    labels.append(clip.video.label)
  checks.usable(source.skipped, bool(clips))
  return types.Batch(np.stack(clips), np.array(labels, np.int32)), class_names


def _open(name: str, dir: str | None, split: str,
          data_dir: str | None) -> Source:
  """Each set's module imports TFDS, so only the one asked for is imported."""
  if name == 'video_folder':
    from vidleak_jax.data import video_folder
    return video_folder.source(dir, split, data_dir)
  if dir:
    raise types.UserError(
        f'data.dir is {str(dir)!r}, but data.name is {name!r}, which has no '
        'folder. Set data.name=video_folder, or leave data.dir empty.')
  if name == 'photo_motion':
    from vidleak_jax.data import photo_motion
    return photo_motion.source(split, data_dir)
  from vidleak_jax.data import public
  return public.source(name, split, data_dir)


def _unrelated(video: Video, videos: list[Video], pick: clips_lib.Pick,
               skipped: dict[str, str]) -> Clip | None:
  """A clip of the next video, round the list, that shows another scene."""
  at = videos.index(video)
  others = [v for v in videos[at:] + videos[:at] if v.scene != video.scene]
  return next(clips_lib.cut(others, range(len(others)), pick, skipped), None)


def _stand_in(i: int, num_frames: int, stride: int, seed: int,
              data_dir: str | None) -> Clip:
  """A photograph in motion, for a set that is all one scene."""
  from vidleak_jax.data import photo_motion
  videos = clips_lib.spread(photo_motion.source('test', data_dir).videos, seed)
  pick = functools.partial(clips_lib.forth_and_back, num_frames, stride)
  return next(clips_lib.cut(videos, itertools.count(i), lambda _: pick, {}))
