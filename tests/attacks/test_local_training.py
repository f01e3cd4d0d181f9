"""Weights of steps and orders of minibatches, against the clients' training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidleak_jax.attacks import labels, local_training
from vidleak_jax.clients import FedAvg
from vidleak_jax.specs import FederatedSpec

RATE = 0.1


def linear(slopes):
  """A loss whose gradient is the mean of `slopes[clip]`, whatever the weights.
  """
  def loss(params, clips, labels, key=None):
    del labels, key
    return params['w'] @ jnp.asarray(slopes)[clips].mean(0)
  return loss


@pytest.mark.parametrize('options', [
    {'local_steps': 3}, {'local_epochs': 2, 'local_batch_size': 2},
    {'local_epochs': 2, 'local_batch_size': 3, 'optimizer': 'momentum'},
    {'local_steps': 3, 'optimizer': 'momentum', 'momentum': 0.5,
     'weight_decay': 0.2, 'proximal': 0.3, 'local_batch_size': 2}], ids=str)
def test_an_update_is_the_weighted_sum_of_its_gradients(options):
  client = FedAvg(per='batch', local_learning_rate=RATE, **options)
  slopes = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
  params = {'w': np.arange(6, dtype=np.float32)}
  order = client.draw_order(jax.random.key(0), 4)
  clips = np.arange(4)
  update = client.update(linear(slopes), params, clips, clips, order=order)['w']
  seen = local_training.response(client, 4)
  assert len(seen.weights) == client.num_local_steps(4)
  size = client.local_batch_size or 4
  rows = [epoch[i:i + size] for epoch in (
      [clips] * len(seen.weights) if order is None else np.asarray(order))
          for i in range(0, 4, size)][:len(seen.weights)]
  expected = seen.decay * params['w'] + sum(
      weight * slopes[own].mean(0) for weight, own in zip(seen.weights, rows))
  np.testing.assert_allclose(update, expected, rtol=1e-4, atol=1e-6)
  shares = local_training.shares(client, 4, order)
  np.testing.assert_allclose(
      expected, seen.decay * params['w'] + seen.gain * shares.sum(0) @ slopes,
      rtol=1e-5)
  np.testing.assert_allclose(shares.sum(), 1)
  # What one clip weighs, over the mean.
  assert 4 * shares.sum(0).max() <= (
      local_training.largest_weight(client, 4) + 1e-6)


def test_turns_say_what_earlier_steps_have_moved():
  """Momentum: two clips one after the other, twice."""
  client = FedAvg(per='batch', local_learning_rate=RATE, local_epochs=2,
                  local_batch_size=1, optimizer='momentum', momentum=0.5)
  slopes = np.eye(2, dtype=np.float32)
  params = {'w': np.zeros(2, np.float32)}
  order = np.array([[1, 0], [0, 1]])
  found = local_training.turns(client, 2, order[None])
  seen = []  # by each step
  for steps in range(4):
    options = vars(client) | {'local_epochs': 0, 'local_steps': steps or 1}
    now = FedAvg(**options).update(
        linear(slopes), params, np.arange(2), np.arange(2), order=order)['w']
    seen.append((steps > 0) * now)
  shares = found.shares[0]
  np.testing.assert_allclose(
      found.before[0], (shares / shares.sum(0)).T @ np.stack(seen), rtol=1e-5)


def test_equal_gradients_come_back():
  client = FedAvg(per='batch', local_epochs=2, local_batch_size=2,
                  optimizer='momentum', weight_decay=0.1, proximal=0.4,
                  local_learning_rate=RATE)
  slope = np.array([1.0, -2.0, 0.5], np.float32)
  params = {'w': np.array([3.0, 1.0, 2.0], np.float32)}
  update = client.update(linear(np.stack([slope] * 4)), params, np.arange(4),
                         np.arange(4))
  found = local_training.mean_gradient(params, update, client, 4)
  np.testing.assert_allclose(found['w'], slope, rtol=1e-4)


def test_all_orders_are_found_where_they_are_few():
  def of(**options):
    return local_training.orders(FederatedSpec(
        algorithm='fedavg', local_batch_size=2, **options), 4)
  found = of(local_epochs=1)
  assert found.shape == (6, 1, 4)
  assert {tuple(map(frozenset, (row[:2], row[2:]))) for row in found[:, 0]} == {
      tuple(map(frozenset, (set(pair), set(range(4)) - set(pair))))
      for pair in [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]}
  assert of(local_epochs=3) is None
  assert local_training.orders(FederatedSpec(), 4) is None


def test_signs_tell_labels_and_do_not_overclaim():
  rng = np.random.default_rng(0)
  kernel, bias = rng.normal(size=(3, 6)), np.array([1, 1, -1, 1, -1, 1.0])
  head = {'kernel': kernel, 'bias': bias}
  two = labels.labels_of_signs(head, 2, proves=True)
  assert two.certain and two.labels.tolist() == [2, 4]
  three = labels.labels_of_signs(head, 3, proves=True)
  assert not three.certain and set(three.labels) == {2, 4}
  one = labels.labels_of_signs(head, 1, proves=True)
  assert not one.certain and len(one.labels) == 1
  head['bias'] = np.array([1, 0.4, -1, 1, 1, 1.0])  # class 1 fell less steadily
  two = labels.labels_of_signs(head, 2, proves=True)
  assert not two.certain and two.labels.tolist() == [1, 2]
  assert two.at_least.tolist() == [0, 0, 1, 0, 0, 0]


def test_a_minibatch_that_counts_more_proves_no_second_clip():
  """Momentum counts the first clip 1.3 times: that is no repeated label."""
  federated = FederatedSpec(
      algorithm='fedavg', message='batch', local_epochs=1, local_batch_size=1,
      optimizer='momentum', momentum=0.9)
  most = local_training.largest_weight(federated, 2)
  np.testing.assert_allclose(most, 2 * 1.9 / 2.9)
  weights, features = np.zeros((4, 5)), np.abs(
      np.random.default_rng(1).normal(size=(2, 4)))
  errors = 0.2 - np.eye(5)[[3, 1]]
  share = np.array([1.9, 1.0]) / 2.9
  head = {'kernel': features.T @ (share[:, None] * errors),
          'bias': share @ errors}
  params = {'kernel': weights, 'bias': np.zeros(5)}
  found = labels.infer_labels(head, params, 2, largest_weight=most)
  assert found.certain and found.labels.tolist() == [1, 3]
