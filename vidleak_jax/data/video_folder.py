"""`video_folder`: the user's own videos, from class folders or a single one.

A video is a file, or a folder that holds nothing but images: its frames.

Records hold what is known about each file, never its frames: UCF101 would take
550 GB decoded. Frames are decoded when they are read.
"""

import dataclasses
import functools
import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from vidleak_jax import types
from vidleak_jax.data import cache, decode
from vidleak_jax.data.clips import Source, Unusable, Video

SUFFIXES = ('.3gp', '.avi', '.flv', '.m4v', '.mkv', '.mov', '.mp4', '.mpeg',
            '.mpg', '.webm', '.wmv')


@dataclasses.dataclass(eq=False)
class Folder(tfds.core.BuilderConfig):
  """The files; `name` changes with their paths, sizes and times."""
  root: Path = Path()
  files: tuple[Path, ...] = dataclasses.field(default=(), repr=False)


class VideoFolder(tfds.core.GeneratorBasedBuilder):
  """Facts about the videos of one folder, broken ones included."""

  VERSION = tfds.core.Version('1.0.0')

  def _info(self) -> tfds.core.DatasetInfo:
    names = sorted({_class(file) for file in self.builder_config.files})
    return self.dataset_info_from_configs(
        description=__doc__,
        features=tfds.features.FeaturesDict({
            'path': tfds.features.Text(),  # relative to the folder
            'label': tfds.features.ClassLabel(names=names),
            'num_frames': np.int64,
            'fps': np.float32,
            'height': np.int64,
            'width': np.int64,
            'error': tfds.features.Text(),  # empty where the video is sound
        }))

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
    return {split: self._generate_examples(files)
            for split, files in split_files(self.builder_config.files).items()}

  def _generate_examples(self, files: list[Path]) -> Iterator[tuple[str, dict]]:
    for file in files:
      facts, error = decode.Facts(0, 0.0, 0, 0), ''
      try:
        facts = decode.probe(file)
      except Unusable as reason:
        error = str(reason)
      path = file.relative_to(self.builder_config.root).as_posix()
      yield path, {'path': path, 'label': _class(file), 'error': error,
                   **facts._asdict()}


def source(dir: str | None, split: str, data_dir: str | None) -> Source:
  """The videos of `dir`: a folder of class folders, or one video.

  A video is a file of one of `SUFFIXES`, or a folder that holds only images,
  whose frames are in natural order (1, 2, 10). The class of a video is the name
  of the folder it lies in. So UCF101-24 (rgb-images/CLASS/VIDEO/00001.jpg),
  Kinetics' rawframes (rawframes_train/CLASS/VIDEO/img_00001.jpg, flow beside
  them or not) and Something-Something (VIDEO/000001.jpg) are read as they are.

  Splits are made by `split_files`. What was found out about the files is
  cached, and looked up anew when a name, a size or a time has changed.

  Raises:
    UserError: if there is no such folder, or no video in it.
  """
  config = find(dir)
  builder = cache.prepared(
      lambda root: VideoFolder(config=config, data_dir=root,
                               file_format='array_record'), data_dir)
  videos, skipped = [], {}
  for record in builder.as_data_source(cache.known_split(builder, split)):
    name, error = record['path'].decode(), record['error'].decode()
    if error:
      skipped[name] = error
      continue
    file = config.root / name
    read = functools.partial(decode.read, file, int(record['num_frames']))
    videos.append(Video(name, scene(file), int(record['label']), read,
                        file))
  return Source(videos, tuple(builder.info.features['label'].names), skipped)


def find(dir: str | None) -> Folder:
  """Lists the videos of `dir`; raises UserError where there are none."""
  if not dir:
    raise types.UserError(
        'data.name is video_folder, but data.dir is empty. Set data.dir to a '
        'folder of class folders of videos, or to one video file.')
  root = Path(dir).expanduser().resolve()
  if not root.exists():
    raise types.UserError(
        f'data.dir {str(dir)!r} does not exist (looked for {root}).')
  if root.is_file() or decode.list_frames(root):
    files, root = [root], root.parent
  else:
    files = sorted(file for pattern in ('*', '*/*')
                   for file in root.glob(pattern) if _is_video(file)) or (
        sorted(filter(_is_video, root.glob('*/*/*'))))
  if not files:
    raise types.UserError(
        f'No video in data.dir {str(dir)!r}. Videos must lie in it, in its '
        'class folders, or in class folders of its splits, and end in one of: '
        f'{", ".join(SUFFIXES)}; or be '
        f'folders that hold only images ({", ".join(decode.IMAGES)}).')
  stats = [(str(part), part.stat().st_size, part.stat().st_mtime_ns)
           for file in files for part in (file, *_frames(file))]
  digest = hashlib.sha256(repr((root, stats)).encode()).hexdigest()[:16]
  return Folder(name=f'files_{digest}', root=root, files=tuple(files))


def _is_video(path: Path) -> bool:
  if path.is_dir():
    return bool(decode.list_frames(path))
  return path.suffix.lower() in SUFFIXES and path.is_file()


def _frames(path: Path) -> list[Path]:
  return decode.list_frames(path) if path.is_dir() else []


def split_files(files: tuple[Path, ...]) -> dict[str, list[Path]]:
  """Divides the files, whole scenes at a time, by a hash of their names.

  In each class a fifth of the scenes, and at least one, is for testing; the
  rest is for training. So a class of one scene is in test only, and a scene is
  never in both. UCF101's own split lists are not read.
  """
  scenes: dict[str, set[str]] = defaultdict(set)
  for file in files:
    scenes[_class(file)].add(scene(file))
  test = set()
  for names in scenes.values():
    ranked = sorted(names, key=lambda n: hashlib.sha256(n.encode()).digest())
    test.update(ranked[:max(1, len(ranked) // 5)])
  splits: dict[str, list[Path]] = defaultdict(list)
  for file in files:
    splits['test' if scene(file) in test else 'train'].append(file)
  return dict(splits)


def scene(file: Path) -> str:
  """Class and group: UCF101 cuts one scene into v_Class_gNN_c01, _c02, ..."""
  return f'{_class(file)}/{re.sub(r"_c[0-9]+$", "", file.stem)}'


def _class(file: Path) -> str:
  return file.parent.name
