"""Local training against a loop written with plain NumPy and its own rules."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.helpers import dense_victim, small_clips
from vidleak_jax.clients import FedAvg, client_from, observe
from vidleak_jax.leaks import load
from vidleak_jax.specs import FederatedSpec
from vidleak_jax.types import PublicInfo, UserError

RATE = 0.05
LABELS = np.array([1, 4, 0, 2, 2])


@pytest.fixture(scope='module')
def victim():
  return dense_victim()


@pytest.fixture(scope='module')
def clips():
  return small_clips(5)


def trained(victim, params, clips, batches, rule, decay=0.0, pull=0.0):
  """Weights before minus after, by `rule(leaf's state, gradient, step)`."""
  gradient = jax.jit(jax.grad(victim.loss))
  leaves, tree = jax.tree.flatten(params)
  start = [np.asarray(leaf, np.float64) for leaf in leaves]
  now, states = list(start), [{} for _ in leaves]
  for step, rows in enumerate(batches):
    found = gradient(tree.unflatten(
        [jnp.asarray(w, jnp.float32) for w in now]), clips[rows], LABELS[rows])
    for i, g in enumerate(jax.tree.leaves(found)):
      g = np.asarray(g, np.float64) + decay * now[i] + pull * (
          now[i] - start[i])
      now[i] = now[i] - RATE * rule(states[i], g, step)
  return [a - b for a, b in zip(start, now)]


def sgd(state, g, step):
  del state, step
  return g


def momentum(state, g, step):
  del step
  state['v'] = 0.8 * state.get('v', 0.0) + g
  return state['v']


def adam(state, g, step):
  state['m'] = 0.9 * state.get('m', 0.0) + 0.1 * g
  state['v'] = 0.999 * state.get('v', 0.0) + 0.001 * g ** 2
  first = state['m'] / (1 - 0.9 ** (step + 1))
  second = state['v'] / (1 - 0.999 ** (step + 1))
  return first / (np.sqrt(second) + 1e-8)


def batches_of(order, size):
  return [epoch[i:i + size] for epoch in np.asarray(order)
          for i in range(0, len(epoch), size)]


@pytest.mark.parametrize('rule, options', [
    (sgd, {}), (sgd, {'weight_decay': 0.1}), (sgd, {'proximal': 0.5}),
    (momentum, {'optimizer': 'momentum', 'momentum': 0.8}),
    (adam, {'optimizer': 'adam'})],
    ids=['sgd', 'decay', 'proximal', 'momentum', 'adam'])
@pytest.mark.parametrize('size', [0, 2, 5])
def test_it_is_the_textbooks(rule, options, size, victim, clips):
  client = FedAvg(per='batch', local_epochs=2, local_batch_size=size,
                  local_learning_rate=RATE, **options)
  order = client.draw_order(jax.random.key(3), 5)
  assert (order is None) == (size != 2)
  rows = [np.arange(5)] * 2 if order is None else batches_of(order, size)
  assert len(rows) == client.num_local_steps(5)
  params = victim.init(None)
  update = jax.jit(lambda *args: client.update(
      victim.loss, *args[:3], order=args[3]))(params, clips, LABELS, order)
  expected = trained(victim, params, clips, rows, rule,
                     options.get('weight_decay', 0.0),
                     options.get('proximal', 0.0))
  for one, two in zip(jax.tree.leaves(update), expected, strict=True):
    # Adam's first step divides what is nearly zero by itself.
    np.testing.assert_allclose(one, two, rtol=2e-3, atol=2e-6)


def test_steps_are_counted_over_epochs(victim, clips):
  client = FedAvg(per='batch', local_steps=3, local_batch_size=2,
                  local_learning_rate=RATE)
  order = np.array([[3, 1, 0, 2], [2, 0, 1, 3]], np.int32)
  assert client.draw_order(jax.random.key(0), 4).shape == order.shape
  params = victim.init(None)
  update = client.update(victim.loss, params, clips[:4], LABELS[:4],
                         order=order)
  expected = trained(victim, params, clips, batches_of(order, 2)[:3], sgd)
  for one, two in zip(jax.tree.leaves(update), expected, strict=True):
    np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-6)


def test_any_transform_trains_and_is_not_told(victim, clips):
  args = victim, victim.init(None), clips, LABELS
  client = FedAvg(per='batch', optimizer=optax.sgd(RATE), local_steps=2)
  leak = observe(*args, client=client)
  same = observe(*args, client=FedAvg(
      per='batch', local_steps=2, local_learning_rate=RATE))
  jax.tree.map(np.testing.assert_array_equal, leak.update, same.update)
  assert leak.public.federated.optimizer == 'other'
  with pytest.raises(UserError, match='optimiser is not told'):
    client_from(leak.public.federated).update(
        victim.loss, leak.params, clips, LABELS)


def test_the_order_is_the_clients_alone(victim, clips, tmp_path):
  args = victim, victim.init(None), clips, LABELS
  client = FedAvg(per='batch', local_epochs=2, local_batch_size=2,
                  local_learning_rate=RATE, optimizer='momentum',
                  momentum=0.5, proximal=0.1)
  one, two = (observe(*args, client=client, key=jax.random.key(seed))
              for seed in (0, 1))
  assert any((a != b).any() for a, b in zip(*map(
      jax.tree.leaves, (one.update, two.update))))
  assert one.public == two.public
  with pytest.raises(UserError, match='random order: give `observe` a key'):
    observe(*args, client=client)
  one.save(tmp_path)
  again = load(tmp_path)
  assert again.public == one.public
  assert client_from(again.public.federated) == client


def test_a_leak_from_before_these_options_loads():
  old = {'message': 'batch', 'algorithm': 'fedavg', 'local_steps': 3,
         'local_learning_rate': 0.01, 'labels_known': False}
  public = PublicInfo.from_dict({'clip_shape': (1, 2, 2, 3), 'federated': old})
  client = client_from(public.federated)
  assert client == FedAvg(per='batch', local_steps=3, local_learning_rate=0.01)


@pytest.mark.parametrize('options, message', [
    ({'optimizer': 'rmsprop'}, 'optimizer is'),
    ({'momentum': 1.0, 'optimizer': 'momentum'}, 'below 1'),
    ({'local_epochs': 2, 'local_steps': 3}, 'give one of the two'),
    ({'local_batch_size': -1}, 'local_batch_size'),
    ({'weight_decay': -0.1}, 'weight_decay')])
def test_mistakes_are_told_where_they_enter(options, message):
  for cls in (FedAvg, FederatedSpec):
    more = {'algorithm': 'fedavg'} if cls is FederatedSpec else {}
    with pytest.raises(UserError, match=message):
      cls(**options, **more)


def test_a_gradient_has_no_local_training():
  with pytest.raises(UserError, match='algorithm is fedsgd'):
    FederatedSpec(local_epochs=2)
