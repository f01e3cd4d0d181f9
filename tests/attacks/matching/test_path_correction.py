"""Targets of several local steps, corrected by the client's path."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vidleak_jax as vl
from vidleak_jax import trees
from vidleak_jax.attacks import local_training
from vidleak_jax.attacks.base import CUT, Cost, Outcome, Problem
from vidleak_jax.attacks.matching import (
    batch_features,
    path_correction,
    path_refinement,
)
from vidleak_jax.attacks.matching.most_likely import Step
from vidleak_jax.attacks.residual import best_orders
from vidleak_jax.attacks.surrogate import midpoint_surrogate
from vidleak_jax.runtime import memory
from vidleak_jax.runtime.programs import ProgramCache
from vidleak_jax.runtime.session import session
from vidleak_jax.types import Recovery

SHAPE = 2, 8, 8, 3
CLIENTS = {
    'sgd': vl.FedAvg(local_steps=4, local_learning_rate=3e-2),
    'momentum': vl.FedAvg(local_steps=3, local_learning_rate=1e-2,
                          optimizer='momentum', momentum=0.5,
                          weight_decay=0.1, proximal=0.3)}


@pytest.fixture(scope='module')
def victim():
  return vl.victims.c3d(SHAPE, 7, preset='tiny')


def leak_of(victim, client):
  clips = jax.random.uniform(jax.random.key(1), (1, *SHAPE))
  params = victim.init(jax.random.key(0))
  return clips, vl.observe(victim, params, clips, [4], client=client)


def sent_of(victim, leak):
  update = trees.take(leak.update, 0)
  near = midpoint_surrogate(
      leak.params, update, victim.head, 1, leak.public.federated)
  assert not near.one_step
  target, _ = batch_features.prepare(
      victim.layers, near.params, near.gradient, 1, error=0.01)
  return path_correction.Sent(
      leak.params, update, near.params, np.float32(near.scale),
      local_training.shares(leak.public.federated, 1, None), target)


def misfit(victim, target, clips):
  found = batch_features.residuals(victim.layers, exact=False)(clips, target)
  return [float(jnp.linalg.norm(part)) for part in found]


@pytest.mark.parametrize('name', CLIENTS)
def test_the_path_ends_where_the_client_ended(victim, name):
  """From any guess; from the true clip it is the client's own."""
  clips, leak = leak_of(victim, CLIENTS[name])
  sent, training = sent_of(victim, leak), leak.public.federated
  path = path_correction.bent_path(victim, training, sent, clips)
  for steps in range(1, training.local_steps):
    update = CLIENTS[name].__class__(**{
        **vars(CLIENTS[name]), 'local_steps': steps}).update(
            victim.loss, leak.params, clips, jnp.array([4]))
    moved = jax.tree.map(lambda w, p, n=steps: w - p[n], leak.params, path)
    for one, other in zip(jax.tree.leaves(moved), jax.tree.leaves(update)):
      np.testing.assert_allclose(one, other, atol=1e-5)


def test_at_the_truth_nothing_is_left(victim):
  clips, leak = leak_of(victim, CLIENTS['sgd'])
  sent = sent_of(victim, leak)
  before = misfit(victim, sent.target, clips)
  after = misfit(victim, path_correction.corrected(
      victim, leak.public.federated, sent, clips), clips)
  assert before[0] > 1e-3
  assert after[0] < 1e-2 * before[0] and after[1] < 0.1 * before[1]


@pytest.mark.slow
@pytest.mark.parametrize('optimizer', ['sgd', 'momentum'])
def test_minibatches_leave_nothing_at_the_truth(victim, optimizer):
  """Three clips in minibatches of 2: each in its own step, of its own weight.
  """
  clips = jax.random.uniform(jax.random.key(1), (3, *SHAPE))
  leak = vl.observe(
      victim, victim.init(jax.random.key(0)), clips, [1, 2, 4],
      client=vl.FedAvg(per='batch', local_epochs=1, local_batch_size=2,
                       optimizer=optimizer, local_learning_rate=1e-2),
      key=jax.random.key(3))
  problem = Problem(victim, leak, jax.random.key(0), session())
  (sent, _), = path_refinement.starts(
      problem, np.asarray(clips)[None], np.array([[1, 2, 4]]))
  order = best_orders(victim, leak, clips[None], np.array([[1, 2, 4]]))[0, 0]
  np.testing.assert_allclose(sent.shares, local_training.shares(
      leak.public.federated, 3, order), rtol=1e-6)
  before = misfit(victim, sent.target, clips)
  after = misfit(victim, path_correction.corrected(
      victim, leak.public.federated, sent, clips), clips)
  assert before[0] > 1e-3
  assert after[0] < 1e-2 * before[0] and after[1] < 0.1 * before[1]


def test_a_guess_brings_the_targets_nearer(victim):
  clips, leak = leak_of(victim, CLIENTS['sgd'])
  sent = sent_of(victim, leak)
  guess = jnp.clip(clips + 0.03 * jax.random.normal(
      jax.random.key(2), clips.shape), 0, 1)
  target = path_correction.corrected(
      victim, leak.public.federated, sent, guess)
  before, after = (misfit(victim, each, clips)
                   for each in (sent.target, target))
  assert after[0] < 0.3 * before[0]


@pytest.mark.slow
def test_rounds_never_answer_worse(victim):
  _, leak = leak_of(victim, CLIENTS['sgd'])
  before, after = (vl.attack(
      victim, leak, vl.attacks.feature_matching(
          num_steps=200, path_rounds=rounds), key=jax.random.key(3))
                   for rounds in (0, 4))
  assert after.gradient_residual[0] < before.gradient_residual[0]
  np.testing.assert_allclose(
      after.findings['residual_before_path'], before.gradient_residual[0],
      rtol=1e-4)


def test_when_time_is_over_the_best_answer_so_far_stands(victim):
  clips, leak = leak_of(victim, CLIENTS['sgd'])
  problem = Problem(victim, leak, jax.random.key(0), session().until(0))
  start = Outcome(Recovery(
      1 - np.asarray(clips)[None], np.array([[4]], np.int32), np.zeros(1)),
                  Cost(), {})
  found = path_refinement.refined(problem, start, rounds=3)
  np.testing.assert_array_equal(found.recovery.clips, start.recovery.clips)
  assert found.findings[CUT] == 'stopped after 0 of 3 corrections'


def levels_and_guess(shape, levels_of_noise):
  rng = np.random.default_rng(5)
  truth = (rng.integers(8, 248, (1, 1, *shape)) / 255).astype(np.float32)
  noise = rng.normal(size=truth.shape) * levels_of_noise / 255
  return truth, (truth + noise).astype(np.float32)


def answer_of(guess):
  return Outcome(Recovery(
      guess, np.array([[4]], np.int32), np.zeros(1)), Cost(), {})


@pytest.mark.parametrize('eight_bit', [True, False])
def test_what_is_near_levels_is_rounded_if_the_residual_falls(
    victim, eight_bit):
  truth, guess = levels_and_guess(SHAPE, 0.04)
  leak = vl.observe(victim, victim.init(jax.random.key(0)), truth[0], [4],
                    client=CLIENTS['sgd'])
  found = path_refinement.refined(
      Problem(victim, leak, jax.random.key(0), session().until(0)),
      answer_of(guess), rounds=3, eight_bit=eight_bit)
  np.testing.assert_allclose(
      found.recovery.clips, truth if eight_bit else guess, atol=1e-6)
  # no other correction is needed once the answer is certain
  assert (CUT in found.findings) != eight_bit


def test_a_pixel_near_its_level_is_held_there_in_a_round(victim, monkeypatch):
  truth, guess = levels_and_guess(SHAPE, 0.04)
  leak = vl.observe(victim, victim.init(jax.random.key(0)), truth[0], [4],
                    client=CLIENTS['sgd'])
  kept = []

  def move(clips, targets, errors, levels, sure, trust):
    kept.append((levels, sure))
    return Step(clips, trust, 0.0, 0.0, 1.0)
  programs = path_refinement._programs
  monkeypatch.setattr(path_refinement, '_programs',
                      lambda *args: (*programs(*args)[:2], move))
  monkeypatch.setattr(path_refinement.programs, 'default', ProgramCache)
  for eight_bit in (True, False):
    path_refinement._round(
        Problem(victim, leak, jax.random.key(0), session()),
        [sent_of(victim, leak)], guess[0], eight_bit)
  (levels, sure), *_, (_, free) = kept
  np.testing.assert_allclose(levels, truth[0], atol=1e-6)
  assert sure.all() and not free.any()


def test_channels_weigh_as_their_equations_are_met():
  kernel = np.ones((6, 3), np.float32) * [1, 1, 10]
  output, kernel = path_refinement._errors(np.zeros((1, 2, 4)), kernel)
  assert np.ptp(output) == 0
  assert kernel.shape == (1, 3) and kernel[0, 2] > 3 * kernel[0, 0] > 0


def test_a_path_beyond_the_memory_is_told(victim, monkeypatch):
  clips, leak = leak_of(victim, CLIENTS['sgd'])
  monkeypatch.setattr(memory, 'host_free', lambda: 1000)
  start = Outcome(Recovery(
      np.asarray(clips)[None], np.array([[4]], np.int32), np.zeros(1)),
                  Cost(), {})
  found = path_refinement.refined(
      Problem(victim, leak, jax.random.key(0), session()), start, rounds=3)
  assert 'weights of 4 local steps need' in found.findings['path_note']
  assert found.recovery is start.recovery


@pytest.mark.parametrize('client', [
    vl.FedSGD(), vl.FedAvg(local_steps=1),
    vl.FedAvg(local_steps=3, optimizer='adam'),
    vl.FedAvg(per='batch', local_epochs=6, local_batch_size=1)])
def test_other_clients_have_no_such_path(victim, client):
  clips = jax.random.uniform(jax.random.key(1), (2, *SHAPE))
  leak = vl.observe(victim, victim.init(jax.random.key(0)), clips, [4, 1],
                    client=client, key=jax.random.key(0))
  assert not path_refinement.applies(victim, leak)
