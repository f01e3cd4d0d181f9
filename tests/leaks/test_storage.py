"""A leak on disk: exact, and refused with a reason when it is not whole."""

import json

import jax
import numpy as np
import pytest

from vidleak_jax.leaks import storage
from vidleak_jax.specs import FederatedSpec
from vidleak_jax.types import UserError


@pytest.fixture
def folder(tmp_path, leak):
  storage.save(tmp_path, leak)
  return tmp_path


def test_round_trip_is_exact(folder, leak):
  loaded = storage.load(folder / 'leak.safetensors')
  assert loaded.public == leak.public
  assert loaded.labels is None and loaded.references is None
  for found, sent in ((loaded.params, leak.params),
                      (loaded.update, leak.update)):
    assert jax.tree.structure(found) == jax.tree.structure(sent)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(sent)):
      assert a.dtype == b.dtype
      np.testing.assert_array_equal(a, b)
  storage.check(loaded, leak.params)


def test_labels_are_kept_where_known(tmp_path, leak):
  known = leak.replace(labels=np.array([[5], [0], [3]], np.int32))
  storage.save(tmp_path, known)
  loaded = storage.load(tmp_path)
  np.testing.assert_array_equal(loaded.labels, known.labels)


def test_missing(tmp_path):
  with pytest.raises(UserError, match=r'No leak at .*leak\.safetensors'):
    storage.load(tmp_path / 'leak.safetensors')


def test_without_its_facts(folder):
  (folder / 'leak.json').unlink()
  with pytest.raises(UserError, match=r'leak\.json'):
    storage.load(folder)


def test_facts_that_lack_something(folder):
  (folder / 'leak.json').write_text(json.dumps({'victim': {}}))
  with pytest.raises(UserError, match='clip_shape'):
    storage.load(folder)


def test_torn(folder):
  file = folder / 'leak.safetensors'
  file.write_bytes(file.read_bytes()[:100])
  with pytest.raises(UserError, match='torn'):
    storage.load(folder)


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_not_finite(folder, leak, bad):
  from safetensors.numpy import load_file, save_file
  update = jax.tree.map(np.array, leak.update)
  update['conv1']['bias'][0] = bad
  said = r'NaN or infinity in update/conv1/bias\.'
  with pytest.raises(UserError, match=said):
    leak.replace(update=update)
  file = folder / 'leak.safetensors'
  arrays = load_file(file)
  arrays['update/conv1/bias'] = update['conv1']['bias']
  save_file(arrays, file)
  with pytest.raises(UserError, match=said):
    storage.load(folder)


def test_shapes_that_do_not_fit_the_victim(leak):
  params = jax.tree.map(np.array, leak.params)
  params['head']['kernel'] = params['head']['kernel'][:-1]
  with pytest.raises(UserError, match=r'head/kernel: leak .* victim'):
    storage.check(leak, params)
  del params['head']
  with pytest.raises(UserError, match=r'head/bias.*victim absent'):
    storage.check(leak, params)


def test_reference_frames_and_facts_are_kept(tmp_path, leak):
  public = leak.public.replace(
      defense=None, eight_bit=False, num_reference_frames=2,
      federated=FederatedSpec(algorithm='fedavg', local_steps=3))
  references = np.zeros((3, 2, 8, 8, 3), np.float32)
  sent = leak.replace(public=public, references=references)
  sent.save(tmp_path)
  loaded = storage.load(tmp_path)
  assert loaded.public == public
  np.testing.assert_array_equal(loaded.references, references)


def test_one_message_holds_both_files(folder, leak):
  loaded = storage.unpack(storage.pack(folder))
  assert loaded.public == leak.public
  jax.tree.map(np.testing.assert_array_equal, loaded.update, leak.update)


@pytest.mark.parametrize('facts, message', [
    ('{', 'torn or no JSON'), ('[]', 'one object'), ('{"a": NaN}', 'torn'),
    ('{"clip_shape": [4, 16, 16]}', r'must be \(T, H, W, C\)'),
    ('{"clip_shape": [4, 16, 16, 3], "batch": 1}', "did you mean|no field"),
    ('{"clip_shape": [4, 16, 16, 3], "batch_size": 0}', 'batch_size is 0'),
    ('{"clip_shape": [4, 16, 16, 3], "format_version": 1}', 'format_version')])
def test_facts_that_are_not_allowed(folder, facts, message):
  (folder / 'leak.json').write_text(facts)
  with pytest.raises(UserError, match=message):
    storage.load(folder)


def test_an_array_of_another_name(folder):
  from safetensors.numpy import load_file, save_file
  file = folder / 'leak.safetensors'
  save_file(load_file(file) | {'truth': np.zeros(3, np.float32)}, file)
  with pytest.raises(UserError, match="'truth'"):
    storage.load(folder)
