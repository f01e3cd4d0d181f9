import numpy as np
import pytest
from PIL import Image

from vidleak_jax import data
from vidleak_jax.data import photo_motion


def clip_of(motion, photo='coffee.png', seed=0):
  """Frames as float [T, H, W], grey, and the camera's path."""
  image = photo_motion.photograph(photo)
  path = photo_motion.camera_path(motion, image.size,
                                  np.random.default_rng(seed))
  frames = np.stack([photo_motion.render(image, view) for view in path])
  return frames.mean(-1), path


def shift(a, b):
  """(x, y) by which the picture moved from a to b, by phase correlation."""
  spectrum = np.fft.fft2(b - b.mean()) * np.conj(np.fft.fft2(a - a.mean()))
  peak = np.fft.ifft2(spectrum / (np.abs(spectrum) + 1e-9)).real.argmax()
  n = len(a)
  y, x = ((v + n // 2) % n - n // 2 for v in divmod(peak, n))
  return x, y


@pytest.mark.parametrize('motion, axis, sign', [
    ('pan_left', 0, 1), ('pan_right', 0, -1), ('pan_up', 1, 1),
    ('pan_down', 1, -1)])
def test_the_picture_moves_against_the_pan(motion, axis, sign):
  frames, _ = clip_of(motion)
  moved = np.mean([shift(frames[t], frames[t + 4]) for t in range(0, 28, 4)], 0)
  assert sign * moved[axis] > 4
  assert abs(moved[1 - axis]) < 1


def test_a_still_camera_sees_one_picture():
  frames, _ = clip_of('still')
  assert (frames == frames[0]).all()


def test_a_shaken_camera_moves_but_stays():
  frames, path = clip_of('shake')
  assert np.abs(np.diff(frames, axis=0)).mean() > 1
  assert np.ptp(path[:, :2], axis=0).max() <= 12


@pytest.mark.parametrize('motion, first_is_inside_last', [
    ('zoom_out', True), ('zoom_in', False)])
def test_zoom_changes_what_is_seen(motion, first_is_inside_last):
  # Shrinking the wide view's middle onto the narrow view gives one picture.
  frames, path = clip_of(motion)
  narrow, wide = (0, -1) if first_is_inside_last else (-1, 0)
  ratio = path[narrow, 2] / path[wide, 2]
  assert 1 / 1.9 <= ratio <= 1 / 1.5
  edge = round(photo_motion.SIZE * (1 - ratio) / 2)
  middle = frames[wide][edge:-edge, edge:-edge]
  picked = np.round(np.linspace(0, photo_motion.SIZE - 1, len(middle)))
  shrunk = frames[narrow][np.ix_(picked.astype(int), picked.astype(int))]
  assert np.corrcoef(middle.ravel(), shrunk.ravel())[0, 1] > 0.9


def test_a_clockwise_camera_turns_the_picture_the_other_way():
  # A path of exactly a quarter turn, so that NumPy can turn it back.
  image = photo_motion.photograph('camera.png')
  upright, turned = (
      photo_motion.render(image, np.array([150., 150., .8, angle])).astype(int)
      for angle in (0, np.pi / 2))
  assert np.abs(np.rot90(upright) - turned).max() <= 1
  _, path = clip_of('rotate_clockwise')
  assert (np.diff(path[:, 3]) > 0).all()
  _, path = clip_of('rotate_counterclockwise')
  assert (np.diff(path[:, 3]) < 0).all()


@pytest.mark.parametrize('motion', photo_motion.MOTIONS)
def test_views_never_leave_the_photograph(motion):
  # On a white photograph, any pixel from outside would be darker.
  white = Image.new('L', (300, 300), 255)
  for seed in range(20):
    path = photo_motion.camera_path(motion, white.size,
                                    np.random.default_rng(seed))
    assert path[:, 2].max() <= 1
    for view in path[::31]:
      assert photo_motion.render(white, view).min() == 255


def test_train_and_test_show_different_photographs(cache):
  scenes = {split: {video.scene for video in
                    photo_motion.source(split, cache).videos}
            for split in ('train', 'test')}
  assert scenes == {k: set(v) for k, v in photo_motion.PHOTOS.items()}
  assert not scenes['train'] & scenes['test']


def test_every_class_has_equally_many_videos(cache):
  for split, count in (('train', 35), ('test', 12)):
    labels = [v.label for v in photo_motion.source(split, cache).videos]
    assert np.bincount(labels).tolist() == [count] * 10


def test_two_builds_give_the_same_bytes(tmp_path):
  files = []
  for name in ('a', 'b'):
    photo_motion.source('test', str(tmp_path / name))
    files.append({path.name: path.read_bytes() for path in
                  (tmp_path / name).rglob('*array_record*')})
  assert len(files[0]) == 2 and files[0] == files[1]


def test_unrelated_clips_show_another_photograph(load, cache, monkeypatch):
  # Each photograph is painted in a brightness of its own.
  level = {photo: 40 * i for i, photo in
           enumerate(photo_motion.PHOTOS['test'])}
  monkeypatch.setattr(photo_motion, 'photograph', lambda photo: photo)
  monkeypatch.setattr(photo_motion, 'render', lambda photo, view:
                      np.full((160, 160, 3), level[photo], np.uint8))
  sample = load('photo_motion', num_clips=12)
  clip, other = (a.mean((1, 2, 3, 4)) for a in (sample.batch.clips,
                                                sample.unrelated))
  assert len(set(clip)) == 4 and (clip != other).all()


def test_motions_can_be_learned_from_clips_alone(cache):
  # Nearest mean of phase-correlation features: a weak learner, far above 10 %.
  def features(split, limit):
    batch, names = data.train_arrays(
        'photo_motion', split=split, num_frames=2, frame_stride=12,
        image_size=64, seed=0, limit=limit, data_dir=cache)
    grey = batch.clips.mean(-1)
    return np.array([shift(a, b) for a, b in grey]), batch.labels, names

  moved, labels, names = features('train', 80)
  pans = [names.index(f'pan_{way}') for way in ('left', 'right', 'up', 'down')]
  centres = np.array([np.median(moved[labels == k], 0) for k in pans])
  moved, labels, _ = features('test', 40)
  keep = np.isin(labels, pans)
  guess = np.square(moved[keep, None] - centres).sum(-1).argmin(-1)
  assert np.mean(np.array(pans)[guess] == labels[keep]) > 0.8
