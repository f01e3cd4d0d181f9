import importlib.util

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from vidleak_jax import data, types
from vidleak_jax.data import cache as cache_lib
from vidleak_jax.data import clips, photo_motion


class TinyVideos(tfds.core.GeneratorBasedBuilder):
  """Stands for any set of TFDS: grey videos of different lengths."""

  VERSION = tfds.core.Version('1.0.0')

  def _info(self):
    features = tfds.features.FeaturesDict({
        'video': tfds.features.Tensor(shape=(None, 20, 24, 1), dtype=np.uint8,
                                      encoding='bytes'),
        'label': tfds.features.ClassLabel(names=['dark', 'bright']),
    })
    return tfds.core.DatasetInfo(builder=self, features=features)

  def _split_generators(self, dl_manager):
    return {'validation': self._generate_examples()}

  def _generate_examples(self):
    for i in range(6):
      yield i, {'video': np.full((5 + i, 20, 24, 1), 40 * i, np.uint8),
                'label': int(i > 2)}


def test_shapes_ranges_and_types(load):
  sample = load('photo_motion', num_clips=3)
  assert sample.batch.clips.shape == sample.unrelated.shape == (3, 4, 16, 16, 3)
  assert sample.originals.shape == (3, 4, 32, 32, 3)
  for array in (sample.batch.clips, sample.originals, sample.unrelated):
    assert array.dtype == np.float32
    assert 0 <= array.min() < array.max() <= 1
  assert sample.batch.labels.dtype == np.int32
  assert sample.class_names == photo_motion.MOTIONS


def test_the_seed_decides(load):
  first, again, other = (load('photo_motion', num_clips=3, seed=s)
                         for s in (5, 5, 6))
  for a, b in zip(first, again):
    np.testing.assert_equal(a, b)
  assert first.names != other.names


def test_more_clips_append(load):
  few, many = (load('photo_motion', num_clips=n) for n in (2, 5))
  assert many.names[:2] == few.names
  np.testing.assert_array_equal(many.batch.clips[:2], few.batch.clips)
  np.testing.assert_array_equal(many.unrelated[:2], few.unrelated)


def test_classes_take_turns(load):
  labels = load('photo_motion', num_clips=20).batch.labels
  assert set(labels[:10]) == set(labels[10:]) == set(range(10))


def test_the_clip_does_not_depend_on_the_size_of_the_original(load):
  small, large = (load('photo_motion', original_size=size) for size in (16, 64))
  np.testing.assert_array_equal(small.batch.clips, large.batch.clips)
  np.testing.assert_array_equal(small.originals, small.batch.clips)


@pytest.mark.parametrize('shape', [(120, 160), (160, 120), (121, 161)])
def test_original_and_clip_show_the_same_crop(shape):
  rng = np.random.default_rng(0)
  noise = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
  frame = np.asarray(noise.resize(shape[::-1], Image.Resampling.BICUBIC))
  small, large = (clips.square([frame], size)[0] for size in (16, 64))

  def error(shift, axis=0):
    moved = np.roll(large, shift, axis).reshape(16, 4, 16, 4, 3).mean((1, 3))
    return np.abs(moved - small)[1:-1, 1:-1].mean()

  # Off by one pixel of the original, a quarter of the clip's, already shows.
  assert error(0) < 0.02
  assert all(error(shift, axis) > 1.5 * error(0)
             for shift in (-1, 1) for axis in (0, 1))


def test_square_keeps_the_middle_and_does_not_alias():
  frame = np.zeros((40, 80, 3), np.uint8)
  frame[:, 20:60] = 255
  inside = clips.square([frame], 8)[0, :, 1:-1]  # edges blend with what is cut
  np.testing.assert_array_equal(inside, 1)
  stripes = np.zeros((64, 64, 3), np.uint8)
  stripes[:, ::2] = 255
  assert np.abs(clips.square([stripes], 16) - 0.5).max() < 0.05


def test_random_labels(load):
  sample = load('photo_motion', num_clips=3, labels='random', num_classes=100)
  assert len(set(sample.batch.labels)) == 3 and max(sample.batch.labels) < 100
  assert len(sample.class_names) == 100
  more = load('photo_motion', num_clips=5, labels='random', num_classes=2)
  assert set(more.batch.labels) == {0, 1}


def test_clips_turn_round_where_they_are_too_short():
  assert clips.forth_and_back(8, 1, 4).tolist() == [0, 1, 2, 3, 2, 1, 0, 1]
  assert clips.forth_and_back(4, 2, 4).tolist() == [0, 2, 2, 0]


def test_train_arrays(cache):
  ask = dict(num_frames=2, frame_stride=3, image_size=8, seed=1, data_dir=cache)
  batch, names = data.train_arrays('photo_motion', split='test', **ask)
  assert batch.clips.shape == (120, 2, 8, 8, 3)
  assert np.bincount(batch.labels).tolist() == [12] * 10
  assert names == photo_motion.MOTIONS
  first, _ = data.train_arrays('photo_motion', split='test', limit=10, **ask)
  np.testing.assert_array_equal(first.clips, batch.clips[:10])
  assert set(first.labels) == set(range(10))


def test_any_set_of_tfds(load):
  sample = load('tiny_videos', split='validation', num_clips=4)
  assert sample.class_names == ('dark', 'bright')
  assert sample.batch.labels[:2].sum() == 1
  for clip, label, other in zip(*sample.batch, sample.unrelated):
    assert clip.std() == 0 and (round(clip.mean() * 255 / 40) > 2) == label
    assert other.mean() != clip.mean()
  short = load('tiny_videos', split='all', num_clips=9, num_frames=7)
  assert len(short.skipped) == 2 and 'has 5 frames' in ''.join(short.skipped)


@pytest.mark.parametrize('ask, message', [
    (dict(image_size=0), 'image_size is 0; it must be even and positive'),
    (dict(image_size=-2), 'image_size is -2'),
    (dict(image_size=15), 'image_size is 15'),
    (dict(original_size=33), 'original_size is 33'),
    (dict(original_size=8), 'original_size is 8, less than image_size 16'),
    (dict(num_frames=0), 'num_frames is 0; it must be 1 or more'),
    (dict(frame_stride=0), 'frame_stride is 0'),
    (dict(num_clips=0), 'num_clips is 0'),
    (dict(seed=-1), 'seed is -1'),
    (dict(split='dev'), "no split 'dev' here.*train, test, all"),
    (dict(dir='videos'), 'Set data.name=video_folder'),
    (dict(labels='none'), 'Unknown labels .none.*dataset, random'),
    (dict(labels='random'), 'num_classes, which is None'),
    (dict(num_classes=9), 'has 10 classes, num_classes is 9'),
    (dict(num_frames=33), 'has 32 frames, but 33 with stride 1 need 33'),
])
def test_wrong_arguments(load, ask, message):
  with pytest.raises(types.UserError, match=message):
    load('photo_motion', **ask)


@pytest.mark.parametrize('name, message', [
    ('ucf_101', 'Unknown data.name .*nearest: ucf101'),
    ('photo_motions', 'nearest: photo_motion'),
    ('', 'Unknown data.name'),
    ('mnist', "'mnist' holds no videos.*image, label"),
])
def test_sets_that_cannot_be_used(load, name, message):
  with pytest.raises(types.UserError, match=message):
    load(name)


@pytest.mark.skipif(importlib.util.find_spec('tensorflow') is not None,
                    reason='TensorFlow is installed')
def test_a_set_that_needs_tensorflow(load):
  with pytest.raises(types.UserError, match=r'needs TensorFlow.*video_folder'):
    load('ucf101')


def test_the_cache_is_where_the_user_wants_it(monkeypatch, tmp_path):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  assert cache_lib.folder(None) == tmp_path / 'vidleak_jax/tfds'
  monkeypatch.delenv('XDG_CACHE_HOME')
  monkeypatch.setenv('HOME', str(tmp_path))
  assert cache_lib.folder(None) == tmp_path / '.cache/vidleak_jax/tfds'
  assert cache_lib.folder('~/x') == tmp_path / 'x'


def test_another_process_may_finish_first(tmp_path):
  made = []

  def make(root):
    builder = photo_motion.PhotoMotion(data_dir=root,
                                       file_format='array_record')
    made.append(builder)
    if len(made) == 1:
      write = builder._download_and_prepare

      def be_overtaken(**kwargs):
        cache_lib.prepared(make, root)
        write(**kwargs)

      builder._download_and_prepare = be_overtaken
    return builder

  builder = cache_lib.prepared(make, tmp_path)
  assert len(builder.as_data_source('test')) == 120
  assert len(made) == 4  # both made theirs again, to read what is there
