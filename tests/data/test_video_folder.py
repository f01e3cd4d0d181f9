import os
import struct
from pathlib import Path

import numpy as np
import pytest
from absl import logging
from PIL import Image

from tests.helpers import CLIPS, needs_clips
from vidleak_jax import types
from vidleak_jax.data import clips, decode, video_folder


def brightness(frames):
  """Frame numbers of videos written by the `video` fixture."""
  return [round(frame.mean() / 20) for frame in frames]


def picked(indices):
  return lambda count: np.array(indices)


@pytest.mark.parametrize('codec, options', [
    ('mpeg4', {}), ('mpeg4', {'bf': '2'}), ('libx264', {'bf': '3'})])
def test_frames_come_in_display_order(tmp_path, video, codec, options):
  path = video(tmp_path / 'a.avi', codec=codec, options=options)
  assert decode.probe(path) == decode.Facts(12, 10.0, 48, 64)
  start, frames = decode.read(path, 12, picked([2, 5, 8]))
  assert start == 2 and brightness(frames) == [2, 5, 8]
  assert frames[0].shape == (48, 64, 3) and frames[0].dtype == np.uint8


def test_frames_may_be_asked_for_in_any_order(tmp_path, video):
  path = video(tmp_path / 'a.avi')
  start, frames = decode.read(path, 12, picked([9, 2, 5]))
  assert start == 9 and brightness(frames) == [9, 2, 5]


def test_colours_are_red_green_blue(tmp_path, video):
  path = video(tmp_path / 'a.mp4', num_frames=1, colour=(230, 30, 60))
  _, (frame,) = decode.read(path, 1, picked([0]))
  np.testing.assert_allclose(frame[4:20, 4:28].mean((0, 1)), (230, 30, 60),
                             atol=6)


def test_a_telephone_s_display_matrix_is_obeyed(tmp_path, video):
  path = video(tmp_path / 'a.mp4', num_frames=1, colour=(255, 0, 0))
  header = bytearray(path.read_bytes())
  matrix = header.index(b'tkhd') + 44
  header[matrix:matrix + 36] = struct.pack(  # a quarter turn clockwise
      '>9i', 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
  path.write_bytes(header)
  _, (frame,) = decode.read(path, 1, picked([0]))
  assert frame.shape == (64, 48, 3)
  assert frame[8:24, 32:44, 0].min() > 200  # from upper left to upper right


def test_a_video_shorter_than_promised_is_picked_from_again(tmp_path, video):
  path = video(tmp_path / 'a.avi', num_frames=6)
  start, frames = decode.read(path, 9, clips.picker(4, 1, 7))
  assert brightness(frames) == [start + t for t in range(4)] and start <= 2
  with pytest.raises(clips.Unusable, match='has 6 frames, but 7 '):
    decode.read(path, 9, clips.picker(7, 1, 7))


def test_class_folders_and_the_broken_video_is_named(load, folder, monkeypatch):
  warned = []
  monkeypatch.setattr(logging, 'warning',
                      lambda text, *args: warned.append(text % args))
  sample = load('video_folder', dir=str(folder), split='all', num_clips=4)
  assert sample.class_names == ('Dance', 'Swim')
  assert sorted(name.split('@')[0] for name in sample.names) == [
      'Dance/clip_0.avi', 'Dance/clip_1.avi', 'Swim/clip_0.avi',
      'Swim/clip_1.avi']
  assert set(sample.batch.labels[:2]) == {0, 1}
  for name, label in zip(sample.names, sample.batch.labels):
    assert name.startswith(sample.class_names[label])
  assert len(sample.skipped) == 1
  assert sample.skipped[0].startswith('Swim/broken.avi: cannot be decoded')
  assert any('Swim/broken.avi' in text for text in warned)


def test_start_frames_are_those_named(load, folder):
  sample = load('video_folder', dir=str(folder), split='all', num_clips=8,
                frame_stride=2)
  for name, clip in zip(sample.names, sample.batch.clips):
    start = int(name.split('@')[1])
    assert brightness(255 * clip) == [start + 2 * t for t in range(4)]
  assert len(set(sample.names)) > 4  # the second round starts elsewhere


def test_one_file(load, folder):
  sample = load('video_folder', dir=str(folder / 'Dance/clip_0.avi'))
  assert sample.class_names == ('Dance',)
  assert sample.names[0].startswith('clip_0.avi@')
  # Nothing else is there, so the unrelated clip is a photograph in motion.
  assert sample.unrelated.std() > 0.01
  longer = load('video_folder', dir=str(folder / 'Dance/clip_0.avi'),
                num_frames=12)
  assert longer.unrelated.shape == (1, 12, 16, 16, 3)


def test_a_changed_folder_is_looked_up_anew(folder, video):
  path = folder / 'Dance/clip_0.avi'
  before = video_folder.find(str(folder)).name
  assert video_folder.find(str(folder)).name == before
  os.utime(path, ns=(1, 1))
  touched = video_folder.find(str(folder)).name
  video(folder / 'Dance/clip_2.avi')
  assert len({before, touched, video_folder.find(str(folder)).name}) == 3


def test_an_unchanged_folder_is_not_probed_again(load, folder, monkeypatch):
  first = load('video_folder', dir=str(folder), split='all')
  monkeypatch.setattr(decode, 'probe', None)
  again = load('video_folder', dir=str(folder), split='all')
  assert first.skipped and again.skipped == first.skipped
  np.testing.assert_array_equal(again.batch.clips, first.batch.clips)


def test_scenes_are_never_split():
  files = tuple(Path(f'/ucf/{name}/v_{name}_g{g:02}_c{c:02}.avi')
                for name in ('Archery', 'Bowling')
                for g in range(1, 26) for c in range(1, 5))
  splits = video_folder.split_files(files)
  scenes = {k: {video_folder.scene(f) for f in v} for k, v in splits.items()}
  assert not scenes['train'] & scenes['test']
  assert len(scenes['test']) == 10 and len(scenes['train']) == 40
  assert splits == video_folder.split_files(files)


def test_a_class_of_one_scene_is_in_test_only(load, tmp_path, video):
  video(tmp_path / 'Dance/a.avi')
  with pytest.raises(types.UserError, match=r"'train'.*one of: test, all"):
    load('video_folder', dir=str(tmp_path), split='train')


def test_frames_of_absurd_size_are_refused(load, tmp_path, video, monkeypatch):
  path = video(tmp_path / 'a.avi')
  monkeypatch.setattr(decode, 'MAX_PIXELS', 64 * 48 - 1)
  with pytest.raises(types.UserError, match='frames of 64x48, more than'):
    load('video_folder', dir=str(path))


def write_frames(folder, count=12, suffix='.png', size=(64, 48)):
  """Frames of brightness 20 t as images 0, 1, ..., 10, 11."""
  folder.mkdir(parents=True)
  for t in range(count):
    Image.new('RGB', size, (20 * t,) * 3).save(folder / f'frame_{t}{suffix}')
  return folder


@pytest.mark.parametrize('suffix', ['.png', '.JPG'])
def test_a_folder_of_frames_is_a_video_in_natural_order(
    load, tmp_path, video, suffix):
  video(tmp_path / 'Swim/a.avi')
  write_frames(tmp_path / 'Dance/b', suffix=suffix)
  (tmp_path / 'Dance/b/.DS_Store').write_bytes(b'x')
  sample = load('video_folder', dir=str(tmp_path), split='all', num_clips=2,
                num_frames=12)
  assert sample.class_names == ('Dance', 'Swim')
  assert {*sample.names} == {'Dance/b@0', 'Swim/a.avi@0'}
  for clip in sample.batch.clips:
    assert brightness(255 * clip) == [*range(12)]


def test_one_folder_of_frames(load, tmp_path):
  folder = write_frames(tmp_path / 'Dance/b')
  sample = load('video_folder', dir=str(folder), references=['11'])
  assert sample.class_names == ('Dance',) and not sample.skipped
  start = int(sample.names[0].split('@')[1])
  assert brightness(255 * sample.batch.clips[0]) == [*range(start, start + 4)]
  assert brightness(255 * sample.references[0]) == [11]


@pytest.mark.parametrize('layout, classes', [
    ('rgb-images/Basketball/v_Basketball_g01_c01/{:05}.jpg', ('Basketball',)),
    ('rawframes_train/archery/abc_000001/img_{:05}.jpg', ('archery',)),
    ('1234/{:06}.jpg', None)])
def test_layouts_of_well_known_sets_are_read(load, tmp_path, layout, classes):
  """UCF101-24, Kinetics as rawframes, Something-Something."""
  for t in range(12):
    file = tmp_path / layout.format(t + 1)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', (64, 48), (20 * t,) * 3).save(file)
    if 'rawframes' in layout:
      for axis in 'xy':
        Image.new('L', (32, 24)).save(file.parent / f'flow_{axis}_{t:05}.jpg')
  sample = load('video_folder', dir=str(tmp_path), split='all', num_frames=12)
  assert sample.class_names == (classes or (tmp_path.name,))
  assert brightness(255 * sample.batch.clips[0]) == [*range(12)]


def test_broken_frames_and_mixed_folders(load, tmp_path, video):
  folder = write_frames(tmp_path / 'Dance/b', count=4)
  first = video_folder.find(str(tmp_path)).name
  (folder / 'frame_2.png').write_bytes(b'no image')
  assert video_folder.find(str(tmp_path)).name != first
  with pytest.raises(types.UserError, match=r'2\.png that cannot be read'):
    load('video_folder', dir=str(tmp_path))
  Image.new('RGB', (8, 8)).save(folder / 'frame_2.png')
  with pytest.raises(types.UserError, match='frames of several sizes'):
    load('video_folder', dir=str(tmp_path))
  (folder / 'notes.txt').write_text('so it is no folder of frames')
  with pytest.raises(types.UserError, match='folders that hold only images'):
    load('video_folder', dir=str(tmp_path))


def test_missing_folder(load, tmp_path):
  with pytest.raises(types.UserError, match='does not exist'):
    load('video_folder', dir=str(tmp_path / 'nowhere'))
  with pytest.raises(types.UserError, match=r'data\.dir is empty'):
    load('video_folder')


def test_folder_without_videos(load, tmp_path):
  (tmp_path / 'notes.txt').write_text('no video')
  with pytest.raises(types.UserError, match=r'No video in .*\.avi, .*\.mp4'):
    load('video_folder', dir=str(tmp_path))


def test_truncated_video(load, tmp_path, video):
  path = video(tmp_path / 'a.avi', num_frames=100, size=(320, 240))
  path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])
  with pytest.raises(types.UserError, match=r'a\.avi: is truncated: .* 100'):
    load('video_folder', dir=str(path))
  path = video(tmp_path / 'b.mp4', num_frames=100, size=(320, 240))
  path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])
  with pytest.raises(types.UserError, match=r'b\.mp4: cannot be decoded'):
    load('video_folder', dir=str(path))


def test_too_few_frames(load, tmp_path, video):
  path = video(tmp_path / 'a.avi', num_frames=12)
  with pytest.raises(types.UserError,
                     match='has 12 frames, but 5 with stride 3 need 13'):
    load('video_folder', dir=str(path), num_frames=5, frame_stride=3)


def test_a_short_video_among_others_is_skipped_and_named(load, folder, video):
  video(folder / 'Dance/short.avi', num_frames=3)
  sample = load('video_folder', dir=str(folder), split='all', num_clips=9)
  assert any('short.avi: has 3 frames' in text for text in sample.skipped)
  assert not any('short' in name for name in sample.names)


def test_a_file_with_sound_only(load, tmp_path):
  import av
  path = tmp_path / 'a.mkv'
  with av.open(str(path), 'w') as container:
    stream = container.add_stream('pcm_s16le', rate=8000, layout='mono')
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), 's16',
                                       'mono')
    frame.sample_rate = 8000
    container.mux(stream.encode(frame))
  with pytest.raises(types.UserError, match='holds no video stream'):
    load('video_folder', dir=str(path))


@needs_clips
def test_real_clips(load):
  sample = load('video_folder', dir=str(CLIPS), num_clips=4, num_frames=16,
                image_size=32, original_size=128)
  assert sorted(sample.batch.labels) == [0, 1, 2, 3] and not sample.skipped
  assert sample.class_names == ('ApplyEyeMakeup', 'Archery', 'ArmWrestling',
                                'WeightLifting')
  assert (sample.batch.clips.std((1, 2, 3, 4)) > 0.05).all()


@needs_clips
def test_packed_b_frames_are_in_order():
  # Sorted by their (wrong) time stamps these frames jump 1.6 times as much.
  path = CLIPS / 'ApplyEyeMakeup/clip_01.avi'
  _, frames = decode.read(path, 164, picked(range(60)))
  grey = np.stack(frames).astype(float).mean(-1)
  assert np.abs(np.diff(grey, axis=0)).mean() < 3
