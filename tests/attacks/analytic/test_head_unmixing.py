"""Features, errors and labels of every clip of a batch, from the head alone."""

import jax
import numpy as np
import pytest
import scipy.special

from vidleak_jax.attacks import local_training
from vidleak_jax.attacks.analytic.head_unmixing import unmix_head
from vidleak_jax.specs import LocalTraining
from vidleak_jax.types import UserError

FEATURES, CLASSES = 40, 12


def _head(labels, *, bias=True, confidence=0.0, noise=0.0, smoothing=0.0):
  """(W, c, dL/dW, dL/dc, features [B, F], errors [B, K])."""
  rng = np.random.default_rng(3)
  labels = np.asarray(labels)
  size = len(labels)
  weights = rng.normal(size=(FEATURES, CLASSES)) / np.sqrt(FEATURES)
  features = rng.normal(size=(size, FEATURES)) + 0.3
  features += confidence * np.sqrt(FEATURES) * weights[:, labels].T
  offsets = 0.1 * rng.normal(size=CLASSES) if bias else None
  errors = scipy.special.softmax(
      features @ weights + (0 if offsets is None else offsets), axis=-1)
  errors -= (1 - smoothing) * np.eye(CLASSES)[labels] + smoothing / CLASSES
  update = np.float32(features.T @ errors / size)
  update += noise * np.std(update) * rng.normal(size=update.shape)
  return (weights, offsets, update,
          np.float32(errors.mean(0)) if bias else None, features, errors)


@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('labels', [[1, 4, 7, 9], [2, 2, 2, 5]])
def test_clips_are_separated_to_rounding(labels, bias):
  *head, features, errors = _head(labels, bias=bias)
  found = unmix_head(*head, 4)
  assert found.certified and found.labels.tolist() == labels
  order = _order(found.features, features)
  np.testing.assert_allclose(found.features, features[order], atol=1e-4)
  np.testing.assert_allclose(found.errors, errors[order], atol=1e-4)


def test_a_confident_head_is_separated():
  *head, features, _ = _head([0, 3, 3, 8], confidence=0.5)
  found = unmix_head(*head, 4)
  assert found.certified and found.labels.tolist() == [0, 3, 3, 8]
  order = _order(found.features, features)
  np.testing.assert_allclose(found.features, features[order], atol=1e-3)


def test_label_smoothing_is_taken_into_account():
  *head, features, _ = _head([0, 3, 5, 8], smoothing=0.1)
  found = unmix_head(*head, 4, labels=[8, 3, 0, 5], label_smoothing=0.1)
  assert found.certified
  np.testing.assert_allclose(found.features, features, atol=1e-3)
  wrong = unmix_head(*head, 4, labels=[8, 3, 0, 5], num_starts=8)
  assert not wrong.certified


def test_noise_is_not_certified_and_still_fits():
  *head, features, _ = _head([0, 3, 5, 8], noise=1e-3)
  found = unmix_head(*head, 4)
  assert not found.certified and 1e-5 < found.residual < 1e-1
  error = np.linalg.norm(found.features - features)
  assert error < 0.05 * np.linalg.norm(features)


def _after_an_epoch(training, labels, order):
  """(features, W, c, dL/dW, dL/dc): each step sees the head it moved."""
  weights, offsets, _, _, features, _ = _head(labels)
  start, velocity = np.vstack([weights, offsets]), 0
  head, inputs = start, np.hstack([features, np.ones((len(labels), 1))])
  for own in np.reshape(order, (-1, training.local_batch_size)):
    errors = scipy.special.softmax(inputs[own] @ head, axis=-1)
    errors -= np.eye(CLASSES)[labels[own]]
    velocity = inputs[own].T @ errors / len(own) + velocity * (
        training.momentum * (training.optimizer == 'momentum'))
    head = head - training.local_learning_rate * velocity
  update = (start - head) / local_training.response(
      training, len(labels)).gain
  return features, weights, offsets, update[:-1], update[-1]


@pytest.mark.parametrize('optimizer', ['sgd', 'momentum'])
def test_the_head_tells_the_order_of_minibatches(optimizer):
  training = LocalTraining(local_epochs=1, local_batch_size=2,
                           optimizer=optimizer, local_learning_rate=0.01)
  labels = np.array([0, 3, 5, 8])
  features, *head = _after_an_epoch(training, labels, [1, 3, 2, 0])
  found = unmix_head(*head, 4, turns=local_training.turns(
      training, 4, local_training.orders(training, 4)))
  assert found.certified and found.labels.tolist() == labels.tolist()
  np.testing.assert_allclose(found.features, features, atol=1e-4)
  assert (found.shares[0] > 0).tolist() == [False, True, False, True]


def test_of_too_many_orders_the_likely_ones_are_tried():
  """Of five clips, one a step, there are 120."""
  training = LocalTraining(local_epochs=1, local_batch_size=1,
                           optimizer='momentum', local_learning_rate=0.01)
  labels, order = np.array([0, 3, 5, 8, 9]), np.array([4, 1, 0, 3, 2])
  assert local_training.orders(training, 5) is None
  features, *head = _after_an_epoch(training, labels, order)
  found = unmix_head(*head, 5, turns=local_training.turns(
      training, 5, np.arange(5)[None, None]))
  assert found.certified and found.labels.tolist() == labels.tolist()
  assert found.shares.argmax(1).tolist() == order.tolist()
  np.testing.assert_allclose(found.features, features, atol=1e-4)


def test_clips_that_are_equal_are_not_certified():
  weights, offsets, _, _, features, errors = _head([1, 1, 4, 7])
  features[1], errors[1] = features[0], errors[0]
  found = unmix_head(
      weights, offsets, features.T @ errors / 4, errors.mean(0), 4,
      num_starts=8)
  assert not found.certified


def test_starts_of_one_shape_share_a_compile():
  from vidleak_jax.attacks.analytic import mixing
  unmix_head(*_head([0, 3, 5, 8])[:4], 4)
  before = mixing.solve_many._cache_size()
  unmix_head(*_head([1, 2, 5, 8])[:4], 4)
  assert mixing.solve_many._cache_size() == before


def test_what_cannot_be_separated_is_refused():
  head = _head([0] * 4)[:4]
  with pytest.raises(UserError, match='rank 11 at most'):
    unmix_head(*head, 12)
  with pytest.raises(UserError, match=r'\[0, 1\), got 1.5'):
    unmix_head(*head, 4, label_smoothing=1.5)
  with pytest.raises(UserError, match='labels must be 4 integers'):
    unmix_head(*head, 4, labels=[0, 1, 2, 12])
  assert not jax.config.jax_enable_x64


def _order(found, truth):
  """Which true clip each found one is nearest to."""
  apart = np.linalg.norm(found[:, None] - truth[None], axis=2)
  assert sorted(apart.argmin(1)) == list(range(len(truth)))
  return apart.argmin(1)
