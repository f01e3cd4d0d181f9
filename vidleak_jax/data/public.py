"""Any other set that TFDS knows by name, such as `ucf101`."""

import difflib
import functools
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from vidleak_jax import types
from vidleak_jax.data import cache
from vidleak_jax.data.clips import Pick, Source, Video


def source(name: str, split: str,
           data_dir: str | os.PathLike | None) -> Source:
  """The videos of the TFDS set `name`, downloaded where needed.

  The first uint8 feature [T, H, W, 1 or 3] is the video, the first ClassLabel,
  if any, the label. Each record counts as a scene of its own.

  Raises:
    UserError: if TFDS does not know the set or cannot prepare it, or if it has
      no such split or no videos.
  """
  try:
    return _source(name, split, data_dir)
  except types.UserError:
    raise
  except Exception as error:  # whatever a foreign builder may run into
    raise types.UserError(_why_not(name, error)) from error


def _source(name: str, split: str,
            data_dir: str | os.PathLike | None) -> Source:
  builder = cache.prepared(functools.partial(_make, name), data_dir)
  split = cache.known_split(builder, split)
  clip = _video_feature(builder)
  labels = [key for key, feature in builder.info.features.items()
            if isinstance(feature, tfds.features.ClassLabel)][:1]
  records = builder.as_data_source(split)
  videos = []
  for i, record in enumerate(builder.as_data_source(
      split, decoders={clip: tfds.decode.SkipDecoding()})):
    video = f'{split}[{i}]'
    videos.append(Video(video, video, int(record[labels[0]]) if labels else 0,
                        functools.partial(_read, records, i, clip)))
  names = builder.info.features[labels[0]].names if labels else ()
  return Source(videos, tuple(names), {})


def _make(name: str, root: Path) -> Any:
  builder = tfds.builder(name, data_dir=root, file_format='array_record')
  _video_feature(builder)  # before anything is downloaded
  return builder


def _video_feature(builder: Any) -> str:
  features = builder.info.features
  for key, feature in features.items():
    shape = getattr(feature, 'shape', None)
    if isinstance(shape, tuple) and len(shape) == 4 and shape[3] in (1, 3) and (
        feature.np_dtype == np.uint8):
      return key
  raise types.UserError(
      f'The TFDS set {builder.name!r} holds no videos, uint8 [T, H, W, 1 or 3];'
      f' its features are {", ".join(features)}. Choose a video set.')


def _read(records: Sequence[dict], i: int, clip: str,
          pick: Pick) -> tuple[int, list[np.ndarray]]:
  frames = records[i][clip]
  wanted = pick(len(frames))
  return int(wanted[0]), [
      np.broadcast_to(frames[t], (*frames[t].shape[:2], 3)) for t in wanted]


def _why_not(name: str, error: Exception) -> str:
  """Says what is the matter: the name, TensorFlow, or something else."""
  base = name.partition('/')[0].partition(':')[0]
  listed = tfds.list_builders(with_community_datasets=False)
  # Without TensorFlow, TFDS hides the sets of its older kind, but ships them.
  hidden = [file.stem for file in Path(tfds.__file__).parent.glob('*/*.py')]
  if base not in listed and base not in hidden:
    names = ['photo_motion', 'video_folder', *listed, *hidden]
    near = difflib.get_close_matches(base, names, n=5, cutoff=0.5)
    return (f'Unknown data.name {name!r}. Choose photo_motion, video_folder or '
            f'a TFDS set; nearest: {", ".join(dict.fromkeys(near)) or "none"}.')
  absent = importlib.util.find_spec('tensorflow') is None
  if absent and (base not in listed or 'tensorflow' in str(error)):
    return (f'The TFDS set {name!r} needs TensorFlow, which is not installed. '
            'Run `pip install tensorflow`, or unpack the videos and set '
            'data.name=video_folder and data.dir to their folder.')
  return f'TFDS cannot prepare {name!r}: {error}'
