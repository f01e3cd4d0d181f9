"""Label counts from the softmax head's gradient: exact, or said to be open."""

import numpy as np
import pytest
import scipy.special

from vidleak_jax.attacks.label_counts import rank_counts
from vidleak_jax.attacks.labels import infer_labels
from vidleak_jax.types import UserError

FEATURES = 64


def _head(labels, num_classes, *, confidence=0.0, bias=True, seed=0, noise=0.0):
  """(update, params) of a head; confident in the labels where asked."""
  rng = np.random.default_rng(seed)
  labels = np.asarray(labels)
  size = len(labels)
  weights = rng.normal(size=(FEATURES, num_classes)) / np.sqrt(FEATURES)
  features = np.maximum(rng.normal(size=(size, FEATURES)) + 0.3, 0)
  features = np.maximum(
      features + confidence * np.sqrt(FEATURES) * weights[:, labels].T, 0)
  offsets = 0.1 * rng.normal(size=num_classes) * bias
  errors = scipy.special.softmax(features @ weights + offsets, axis=-1)
  errors[np.arange(size), labels] -= 1
  update = {'kernel': features.T @ errors / size}
  params = {'kernel': weights}
  if bias:
    update['bias'], params['bias'] = errors.mean(0), offsets
  root_mean_square = np.sqrt(np.mean(update['kernel'] ** 2))
  update = {name: np.float32(
      leaf + noise * root_mean_square * rng.normal(size=leaf.shape))
            for name, leaf in update.items()}
  return update, params


@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('confidence', [0.0, 1.0])
@pytest.mark.parametrize('num_classes', [3, 7, 101])
def test_one_clip_is_exact(num_classes, confidence, bias):
  for label in (0, num_classes - 1):
    found = infer_labels(*_head([label], num_classes, bias=bias,
                                confidence=confidence), 1)
    assert found.certain and found.labels.tolist() == [label]
    assert found.labels.dtype == np.int32


@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('confidence', [0.0, 0.5])
def test_distinct_labels_are_exact(confidence, bias):
  labels = [3, 17, 50, 51, 99]
  found = infer_labels(
      *_head(labels, 101, confidence=confidence, bias=bias), 5)
  assert found.certain and found.labels.tolist() == labels
  assert found.alternatives == ()


def test_repeats_are_counted():
  found = infer_labels(*_head([2, 2, 2, 5], 7), 4)
  assert found.labels.tolist() == [2, 2, 2, 5]
  labels = np.sort(np.random.default_rng(1).choice([1, 4, 77, 90], 32))
  found = infer_labels(*_head(labels, 101), 32)
  assert found.certain and found.labels.tolist() == labels.tolist()


@pytest.mark.parametrize(('num_classes', 'batches'), [
    (5, 40), (101, 8), pytest.param(101, 40, marks=pytest.mark.slow)])
def test_what_is_certain_is_right(num_classes, batches):
  """Random batches, to 32 clips, of blank and of confident networks."""
  rng = np.random.default_rng(2)
  for seed in range(batches):
    size = int(rng.integers(2, 33))
    labels = np.sort(rng.choice(rng.permutation(num_classes)[:6], size))
    found = infer_labels(*_head(
        labels, num_classes, seed=seed, confidence=(seed % 2) * 1.0,
        bias=seed % 4 < 2), size)
    assert len(found.labels) == size and found.note
    if found.certain:
      np.testing.assert_array_equal(found.labels, labels)
    else:
      assert found.alternatives


def test_noise_is_not_taken_for_a_label():
  update, params = _head([2, 5], 101, noise=0.3)
  update['bias'] += 0.1 * np.random.default_rng(0).normal(size=101)
  assert not infer_labels(update, params, 2).certain


def test_two_classes_without_a_bias_are_open():
  found = infer_labels(*_head([1], 2, bias=False), 1)
  assert not found.certain and found.labels.tolist() == [1]
  assert [each.tolist() for each in found.alternatives] == [[0]]


def test_more_labels_than_the_batch_holds_are_told():
  found = infer_labels(*_head([1, 2, 3, 4], 101), 3)
  assert not found.certain and 'at least' in found.note


def test_counts_are_ranked_by_their_distance():
  ranked = rank_counts(np.array([1.6, 0.9, 0.5]), np.array([0, 1, 0]), 3, 3)
  assert [each.tolist() for each in ranked] == [
      [2, 1, 0], [1, 1, 1], [1, 2, 0]]
  everything = rank_counts(np.array([1., 1.]), np.zeros(2, int), 2, 99)
  assert sorted(each.tolist() for each in everything) == [
      [0, 2], [1, 1], [2, 0]]


def test_mistakes_are_told():
  update, params = _head([1], 7)
  with pytest.raises(UserError, match='one message at a time'):
    infer_labels({'kernel': update['kernel'][None]}, params, 1)
  with pytest.raises(UserError, match='at least 1, got 0'):
    infer_labels(update, params, 0)
  with pytest.raises(UserError, match='zero or not finite'):
    infer_labels({'kernel': 0 * update['kernel']}, params, 1)
