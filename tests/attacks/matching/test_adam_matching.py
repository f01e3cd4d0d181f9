"""Adam in minibatches: the head as features and order of the clips make it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vidleak_jax as vl
from vidleak_jax import trees
from vidleak_jax.attacks.base import CUT, Effort, Problem
from vidleak_jax.attacks.matching import adam_head, chain
from vidleak_jax.runtime.session import session

SHAPE = 2, 8, 8, 3
LABELS = np.array([5, 2, 0, 3])
RATE = 1e-4
CLIENT = vl.FedAvg(per='batch', local_epochs=2, local_batch_size=2,
                   optimizer='adam', local_learning_rate=RATE)


@pytest.fixture(scope='module')
def victim():
  return vl.victims.c3d(SHAPE, 7, preset='tiny')


@pytest.fixture(scope='module')
def clips():
  return np.random.default_rng(0).uniform(
      size=(4, *SHAPE)).astype(np.float32)


@pytest.fixture(scope='module')
def leak(victim, clips):
  return vl.observe(victim, victim.init(jax.random.key(0)), clips, LABELS,
                    client=CLIENT, key=jax.random.key(1))


@pytest.mark.slow
def test_the_truth_fits_in_its_order_alone(victim, clips):
  order = np.array([[1, 3, 0, 2], [0, 1, 3, 2]])
  params = victim.init(jax.random.key(0))
  update = CLIENT.update(victim.loss, params, clips, LABELS, order=order)
  head = adam_head.read(params['head'], update['head'], LABELS, RATE,
                        jax.random.key(2))
  layers = victim.layers
  start = chain.features(layers, params, clips)
  along = adam_head.path(layers, params, update, head, jnp.asarray(clips), 4)
  assert along.drift.shape == (4, *start.shape)
  true = float(adam_head.misfit(head, start, along, order.reshape(4, 2), RATE))
  assert true < 0.02
  wrong = order[:, [0, 2, 1, 3]]
  assert adam_head.misfit(
      head, start, along, wrong.reshape(4, 2), RATE) > 3 * true
  found, least = adam_head.better_order(head, start, along, wrong, 2, RATE)
  np.testing.assert_allclose(least, true, rtol=1e-3)
  assert [set(row[:2]) for row in found] == [set(row[:2]) for row in order]


def test_classes_that_were_left_out_stand_in_the_sum():
  """80 classes move alike: 16 columns tell the sum over all."""
  weights = {'kernel': np.zeros((3, 90)), 'bias': np.zeros(90)}
  head = adam_head.read(weights, weights, np.arange(4), RATE,
                        jax.random.key(0))
  assert head.kernel.shape == (3, 20)
  np.testing.assert_allclose(np.exp(head.log_count).sum(), 90, rtol=1e-5)


@pytest.mark.slow
def test_the_derivative_is_smooth_and_the_value_exact(victim, leak, clips):
  update = trees.take(leak.update, 0)
  head = adam_head.read(leak.params['head'], update['head'], LABELS, RATE,
                        jax.random.key(2))
  start = chain.features(victim.layers, leak.params, clips)
  along = adam_head.path(
      victim.layers, leak.params, update, head, jnp.asarray(clips), 4)
  steps = np.array([[0, 1], [2, 3], [0, 2], [1, 3]])
  values, slopes = zip(*(jax.value_and_grad(adam_head.misfit, 1)(
      head, start, along, steps, RATE, edge) for edge in (0.1, 0.3)))
  np.testing.assert_allclose(*values, rtol=1e-6)
  assert all(np.isfinite(slope).all() for slope in slopes)
  assert not np.allclose(*slopes, rtol=1e-2)


@pytest.mark.slow
def test_an_answer_explains_the_head(victim, leak):
  few, many = (vl.attack(victim, leak, vl.attacks.adam_matching(
      num_steps=steps, prior=0.01), key=jax.random.key(2))
               for steps in (1, 100))
  assert sorted(many.labels) == sorted(LABELS)
  assert many.findings['head_misfit'] < 0.8 * few.findings['head_misfit']
  assert many.clips.shape == (4, *SHAPE)
  assert 0 <= many.clips.min() and many.clips.max() <= 1


@pytest.mark.slow
@pytest.mark.slow
def test_it_ends_when_time_is_over(victim, leak):
  outcome = vl.attacks.adam_matching(num_steps=1000).run(
      Problem(victim, leak, jax.random.key(0), session().until(0)), Effort())
  assert '25 of 1000' in outcome.findings[CUT]


@pytest.mark.parametrize(('options', 'reason'), [
    ({'optimizer': 'sgd'}, 'trains by Adam'),
    ({'local_batch_size': 0}, 'minibatches of equal size'),
    ({'local_batch_size': 3}, 'minibatches of equal size'),
    ({'weight_decay': 0.1}, 'neither weight decay')], ids=str)
def test_it_says_where_it_does_not_apply(victim, leak, options, reason):
  facts = leak.public.federated.replace(**options)
  other = leak.replace(public=leak.public.replace(federated=facts))
  assert reason in vl.attacks.adam_matching().requires(victim, other)[0]
