"""Frames that the attacker holds: of the same video, outside the clip."""

import numpy as np
import pytest
from PIL import Image

from vidleak_jax import data
from vidleak_jax.data import clips, references
from vidleak_jax.types import UserError


def _load(**options):
  return data.load('photo_motion', num_clips=2, num_frames=4, frame_stride=2,
                   image_size=16, original_size=32, seed=3, **options)


def test_none_by_default():
  assert _load().references.shape == (2, 0, 32, 32, 3)


def test_drawn_outside_the_clip():
  sample = _load(num_references=5)
  assert sample.references.shape == (2, 5, 32, 32, 3)
  for held, clip, name in zip(
      sample.references, sample.originals, sample.names):
    gaps = np.abs(held[:, None] - clip[None]).max(axis=(2, 3, 4))
    assert (gaps.min() > 0) != ('/still_' in name)


def _outside(sample, count=32, span=7):
  """A frame number inside no clip of the sample."""
  starts = [int(name.split('@')[1]) for name in sample.names]
  return next(i for i in range(count)
              if all(not start <= i < start + span for start in starts))


def test_by_number_and_by_file(tmp_path):
  number = _outside(_load())
  numbered = _load(references=[str(number)])
  file = tmp_path / 'frame.png'
  Image.fromarray(np.uint8(numbered.references[0, 0] * 255 + 0.5)).save(file)
  from_file = _load(references=[str(file)])
  np.testing.assert_allclose(
      from_file.references[0, 0], numbered.references[0, 0], atol=0.01)
  assert from_file.reference_distances == ((None,), (None,))


def test_frames_inside_the_attacked_clip_are_refused():
  """A stride leaves frames out: they lie inside all the same."""
  start = int(_load().names[0].split('@')[1])
  for number in range(start, start + 7):
    with pytest.raises(UserError, match=f'{number} lies inside the attacked'):
      _load(references=[str(number)])


def test_the_distance_in_frames_is_recorded():
  sample = _load(num_references=3)
  for distances in sample.reference_distances:
    assert len(distances) == 3 and all(1 <= d <= 31 - 6 for d in distances)
  assert [_distance('a@5', number) for number in (0, 4, 12, 31)] == [
      5, 1, 1, 20]


def _distance(name, number):
  """Of one numbered reference to the clip called `name`."""
  span, start = 7, int(name.split('@')[1])
  clip = clips.Clip(clips.Video(
      'a', 'a', 0, lambda pick: (0, [np.zeros((4, 4, 3), np.uint8)
                                     for _ in pick(32)])), start, [])
  return references.read(clip, span, 0, [str(number)], 0)[1][0]


def test_the_attacked_file_itself_is_its_first_frame(load, folder):
  """All 12 frames are the clip, so its file is no reference of its own."""
  file = folder / 'Dance/clip_0.avi'
  with pytest.raises(UserError, match='0 lies inside the attacked clip'):
    load('video_folder', dir=str(file), num_frames=12, references=[str(file)])


@pytest.mark.parametrize('options, said', [
    ({'references': ['99']}, 'reference 99'),
    ({'references': ['/no/such.png']}, '/no/such.png'),
    ({'num_references': 99}, 'Ask for fewer'),
])
def test_what_is_not_there_is_told(options, said):
  with pytest.raises(UserError, match=said):
    _load(**options)
