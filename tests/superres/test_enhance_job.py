"""Super-resolution alone, from file to file."""

import numpy as np
import pytest
from PIL import Image

from vidleak_jax.experiments import enhancement
from vidleak_jax.types import UserError


@pytest.fixture
def recovered(tmp_path, small):
  np.savez(tmp_path / 'recovered.npz', clips=small)
  return tmp_path / 'recovered.npz'


def test_arrays_and_references(tmp_path, recovered, large):
  frame = np.round(255 * large[0, 0]).astype(np.uint8)
  Image.fromarray(frame).save(tmp_path / 'held.png')
  target = tmp_path / 'out.npz'
  assert enhancement.run(recovered, target, [tmp_path / 'held.png'],
                         adapt_steps=60, num_devices=1) == large.shape
  with np.load(target) as archive:
    error = np.abs(archive['enhanced'][0, 0] - large[0, 0]).mean()
  assert error < 0.03  # the reference is this very frame


@pytest.mark.parametrize('count', [1, 4, 5, 12, 13])
def test_pieces_have_their_neighbours_and_cover_a_clip_once(count):
  frames, own = np.arange(float(count)), []
  for piece, first, number in enhancement.pieces(frames, 4, 2):
    own += list(piece[first:first + number])
    assert first == min(2, piece[first])
    assert len(piece) - first - number == min(2, count - 1 - own[-1])
  np.testing.assert_array_equal(own, frames)


def test_a_long_clip_in_pieces_is_the_same(tmp_path, small, monkeypatch):
  clips = np.concatenate([small, small[:, ::-1]], axis=1)
  np.savez(tmp_path / 'long.npz', clips=clips)
  answers = []
  for size in (2, 100):
    monkeypatch.setattr(enhancement, '_BLOCK', size)
    target = tmp_path / f'{size}.npz'
    shape = enhancement.run(tmp_path / 'long.npz', target, num_devices=1)
    with np.load(target) as archive:
      answers.append(archive['enhanced'])
    assert answers[-1].shape == shape
  np.testing.assert_allclose(*answers, atol=1e-5)


def test_video_to_video(tmp_path, recovered):
  enhancement.run(recovered, tmp_path / 'a.mp4', num_devices=1)
  shape = enhancement.run(tmp_path / 'a.mp4', tmp_path / 'b.png', num_devices=1)
  assert shape == (1, 3, 512, 512, 3)
  assert Image.open(tmp_path / 'b.png').size == (512, 512)


def test_mistakes_are_explained(tmp_path, recovered):
  (tmp_path / 'broken.mp4').write_bytes(b'no video')
  with pytest.raises(UserError, match=r'broken\.mp4 cannot be used'):
    enhancement.run(tmp_path / 'broken.mp4', tmp_path / 'out.npz')
  bomb = Image.new('L', (20000, 10000))  # Pillow refuses it in its own way
  bomb.save(tmp_path / 'bomb.png')
  with pytest.raises(UserError, match=r'bomb\.png cannot be used'):
    enhancement.run(tmp_path / 'bomb.png', tmp_path / 'out.npz')
  with pytest.raises(UserError, match='There is no file'):
    enhancement.run(tmp_path / 'missing.mp4', tmp_path / 'out.npz')
  with pytest.raises(UserError, match=r'it can be \.npz, \.mp4, \.png'):
    enhancement.run(recovered, tmp_path / 'out.gif')
  Image.new('RGB', (64, 48)).save(tmp_path / 'other.png')
  with pytest.raises(UserError, match='References are 48x64'):
    enhancement.run(recovered, tmp_path / 'out.npz', [tmp_path / 'other.png'])
