"""Frames that the attacker holds: of the same video, outside the clip."""

import numpy as np
import pytest
from PIL import Image

from vidleak_jax import data
from vidleak_jax.types import UserError


def _load(**options):
  return data.load('photo_motion', num_clips=2, num_frames=4, frame_stride=2,
                   image_size=16, original_size=32, seed=3, **options)


def test_none_by_default():
  assert _load().references.shape == (2, 0, 32, 32, 3)


def test_drawn_outside_the_clip():
  sample = _load(num_references=5)
  assert sample.references.shape == (2, 5, 32, 32, 3)
  for held, clip in zip(sample.references, sample.originals):
    gaps = np.abs(held[:, None] - clip[None]).max(axis=(2, 3, 4))
    assert gaps.min() > 0 or 'still' in sample.names[0]


def test_by_number_and_by_file(tmp_path):
  numbered = _load(references=['0', '7']).references
  file = tmp_path / 'frame.png'
  Image.fromarray(np.uint8(numbered[0, 1] * 255 + 0.5)).save(file)
  from_file = _load(references=[str(file)]).references
  np.testing.assert_allclose(from_file[0, 0], numbered[0, 1], atol=0.01)


@pytest.mark.parametrize('options, said', [
    ({'references': ['99']}, 'reference 99'),
    ({'references': ['/no/such.png']}, '/no/such.png'),
    ({'num_references': 99}, 'Ask for fewer'),
])
def test_what_is_not_there_is_told(options, said):
  with pytest.raises(UserError, match=said):
    _load(**options)
