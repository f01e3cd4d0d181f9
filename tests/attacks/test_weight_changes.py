"""Attacks on what clients send after training in minibatches."""

import jax
import numpy as np
import pytest

import vidleak_jax as vl
from tests.helpers import dense_victim, mostly_quick, small_clips
from vidleak_jax.attacks import gradient_residual
from vidleak_jax.attacks.residual import best_orders, order_floor
from vidleak_jax.clients import FedAvg, observe
from vidleak_jax.runtime import programs

LABELS = np.array([1, 4, 0, 2])


@pytest.fixture(scope='module')
def victim():
  return dense_victim()


@pytest.fixture(scope='module')
def clips():
  return small_clips(4)


@pytest.fixture
def watch(victim, clips):
  def watch(**options):
    options = {'per': 'batch', 'local_batch_size': 2,
               'local_learning_rate': 0.05} | options
    return observe(victim, victim.init(None), clips, LABELS,
                   client=FedAvg(**options), key=jax.random.key(1))
  return watch


@pytest.mark.parametrize('options', [
    {}, {'optimizer': 'momentum'}, {'optimizer': 'adam'},
    {'optimizer': 'momentum', 'weight_decay': 0.1, 'proximal': 0.1}], ids=str)
def test_the_truth_has_no_residual_in_its_own_order(
    options, watch, victim, clips):
  leak = watch(local_epochs=1, **options)
  found = gradient_residual(victim, leak, clips[None], LABELS[None])
  assert found.shape == (1,) and found[0] < 1e-4
  swapped = clips[[1, 0, 3, 2]]
  assert gradient_residual(victim, leak, swapped[None], LABELS[None])[0] > 0.05
  order = best_orders(victim, leak, clips[None], LABELS[None])
  assert order.shape == (1, 1, 1, 4)
  assert order_floor(victim, leak, clips[None], LABELS[None]) == [0]


@pytest.mark.parametrize('sizes', [(3, 4), (4, 3)], ids=str)
def test_the_truth_of_a_batch_of_another_size_has_no_residual(sizes, victim):
  for size in sizes:  # their orders differ, so they share no program
    clips = small_clips(size)
    leak = observe(
        victim, victim.init(None), clips, LABELS[:size],
        client=FedAvg(per='batch', local_batch_size=2, local_epochs=1,
                      local_learning_rate=0.05), key=jax.random.key(1))
    assert gradient_residual(
        victim, leak, clips[None], LABELS[None, :size])[0] < 1e-5


@pytest.mark.slow  # it compiles the attack three times
def test_a_batch_of_another_size_is_simulated_in_its_own_order(victim):
  def attacked(size):
    leak = observe(
        victim, victim.init(None), small_clips(size), LABELS[:size],
        client=FedAvg(per='batch', local_batch_size=2, local_epochs=1,
                      local_learning_rate=0.05, labels_known=True),
        key=jax.random.key(1))
    return vl.attack(victim, leak, vl.attacks.ig(
        num_steps=2, local_training='simulated'), key=jax.random.key(2)).clips

  attacked(4)
  after = attacked(3)
  programs.default().clear()
  np.testing.assert_array_equal(after, attacked(3))


def test_an_order_of_many_leaves_the_truth_about_its_floor(
    watch, victim, clips):
  leak = watch(local_epochs=4, optimizer='momentum')
  found = gradient_residual(victim, leak, clips[None], LABELS[None])[0]
  floor = order_floor(victim, leak, clips[None], LABELS[None])[0]
  assert 1e-3 < found < 3 * floor and floor < 3 * found


@pytest.mark.parametrize('options', [
    {'local_epochs': 1, 'optimizer': 'momentum'},
    {'local_epochs': 3}, {'local_epochs': 2, 'optimizer': 'adam',
                          'local_learning_rate': 1e-3},
    {'local_steps': 3, 'local_batch_size': 0, 'weight_decay': 0.1}], ids=str)
def test_what_an_answer_explains_is_above_a_grey_one(options, watch, victim):
  leak = watch(**options)
  found = vl.attack(victim, leak, vl.attacks.ig(num_steps=150),
                    key=jax.random.key(2))
  assert sorted(found.labels) == sorted(LABELS)
  grey = gradient_residual(
      victim, leak, np.full((1, 4, 2, 4, 4, 3), 0.5, np.float32),
      found.labels[None])
  assert found.gradient_residual[0] < 0.8 * grey[0]
  assert ('local_order' in found.findings) == (
      leak.public.federated.is_shuffled(4))


def test_both_ways_to_match_apply(watch, victim):
  leak = watch(local_epochs=2)
  for way in ('surrogate', 'simulated'):
    found = vl.attack(victim, leak, vl.attacks.ig(
        num_steps=20, local_training=way), key=jax.random.key(2))
    assert np.isfinite(found.gradient_residual).all()


def test_a_polish_simulates_the_client(watch, victim, clips):
  leak = watch(local_epochs=1, optimizer='momentum', momentum=0.5)
  plain, polished = (vl.attack(
      victim, leak, vl.attacks.ig(num_steps=100, polish_steps=steps),
      key=jax.random.key(2)) for steps in (0, 4))
  assert polished.gradient_residual[0] < 0.5 * plain.gradient_residual[0]


def test_an_optimiser_that_is_not_told_is_refused(watch, victim):
  import optax
  leak = watch(local_epochs=1, optimizer=optax.sgd(0.1))
  assert vl.applicable(victim, leak)['ig'] == [
      "the client's optimiser is not told"]
  with pytest.raises(vl.UserError, match='optimiser is not told'):
    vl.attack(victim, leak, 'auto', key=jax.random.key(0))


def test_feature_matching_says_where_it_ends(watch):
  chain = vl.victims.c3d((4, 16, 16, 3), 7, preset='tiny')
  clips = np.random.default_rng(0).uniform(size=(2, 4, 16, 16, 3))
  for options, reason in (
      ({'local_epochs': 1, 'optimizer': 'adam'}, 'no sums of gradients'),
      ({'local_steps': 1, 'local_batch_size': 1}, 'less than an epoch')):
    leak = observe(chain, chain.init(jax.random.key(0)), clips, [1, 2],
                   client=FedAvg(per='batch', **options),
                   key=jax.random.key(1))
    assert reason in vl.applicable(chain, leak)['feature_matching'][0]


def test_rounds_are_all_observed_stored_and_matched(victim, clips, tmp_path):
  client = FedAvg(per='batch', local_batch_size=2, local_epochs=1,
                  local_learning_rate=0.05)
  leak = observe(victim, victim.init(None), clips, LABELS, client=client,
                 key=jax.random.key(1), num_rounds=2, server_learning_rate=0.5)
  first, second = leak.rounds()
  jax.tree.map(lambda a, b, u: np.testing.assert_allclose(
      b, a - 0.5 * u[0], rtol=1e-5), first.params, second.params, first.update)
  leak.save(tmp_path)
  again = vl.load_leak(tmp_path)
  assert again.public == leak.public
  jax.tree.map(np.testing.assert_array_equal, leak.rounds(), again.rounds())
  assert gradient_residual(victim, leak, clips[None], LABELS[None])[0] < 1e-4
  found = vl.attack(victim, again, vl.attacks.ig(num_steps=30, polish_steps=1),
                    key=jax.random.key(2))
  assert found.gradient_residual[0] < 1
  with pytest.raises(vl.UserError, match='give one less of later_rounds'):
    leak.replace(later_rounds=())


@pytest.mark.parametrize(
    'way', mostly_quick(['surrogate', 'simulated'], ['surrogate']))
def test_a_second_round_changes_what_is_matched(way, victim, clips):
  client = FedAvg(local_steps=2, local_learning_rate=0.05)
  one, two = (observe(
      victim, victim.init(None), clips[:1], LABELS[:1], client=client,
      num_rounds=count) for count in (1, 2))
  found = [vl.attack(victim, leak, vl.attacks.ig(
      num_steps=5, local_training=way), key=jax.random.key(2)).clips
           for leak in (one, two)]
  assert np.abs(found[0] - found[1]).max() > 1e-4
