"""A leak on disk: exact, and refused with a reason when it is not whole."""

import json

import jax
import numpy as np
import pytest

from vidleak_jax.leaks import storage
from vidleak_jax.types import UserError

KNOWLEDGE = {'victim': {'name': 'c3d'}, 'clip_shape': [4, 16, 16, 3],
             'num_frames': 4, 'batch_size': 1, 'federated': {}}


@pytest.fixture
def folder(tmp_path, leak):
  storage.save(tmp_path, leak, KNOWLEDGE)
  return tmp_path


def test_round_trip_is_exact(folder, leak):
  loaded, knowledge = storage.load(folder / 'leak.safetensors')
  assert knowledge == KNOWLEDGE
  assert jax.tree.structure(loaded) == jax.tree.structure(leak)
  for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(leak)):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a, b)
  storage.check(loaded, leak.params)


def test_labels_are_kept_where_known(tmp_path, leak):
  known = leak._replace(labels=np.array([[5], [0], [3]], np.int32))
  storage.save(tmp_path, known, KNOWLEDGE)
  loaded, _ = storage.load(tmp_path)
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
def test_not_finite(tmp_path, leak, bad):
  update = jax.tree.map(np.array, leak.update)
  update['conv1']['bias'][0] = bad
  storage.save(tmp_path, leak._replace(update=update), KNOWLEDGE)
  with pytest.raises(UserError, match='NaN or Inf in update/conv1/bias'):
    storage.load(tmp_path)


def test_shapes_that_do_not_fit_the_victim(leak):
  params = jax.tree.map(np.array, leak.params)
  params['head']['kernel'] = params['head']['kernel'][:-1]
  with pytest.raises(UserError, match=r'head/kernel: leak .* victim'):
    storage.check(leak, params)
  del params['head']
  with pytest.raises(UserError, match=r'head/bias.*victim absent'):
    storage.check(leak, params)
