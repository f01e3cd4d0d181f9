"""Feature matching of several rounds: their equations add up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vidleak_jax as vl
from tests.helpers import problem, psnr, run_attack
from vidleak_jax import trees
from vidleak_jax.attacks.base import Cost, Outcome
from vidleak_jax.attacks.matching import (
  feature_rounds,
  iterative,
  path_refinement,
)
from vidleak_jax.attacks.matching.feature_matching import FeatureMatching
from vidleak_jax.types import Guess, Recovery, Round, Target

SHAPE = 2, 8, 8, 3
LABELS = [2, 2, 5]


@pytest.fixture(scope='module')
def victim():
  return vl.victims.c3d(SHAPE, 7, preset='tiny')


@pytest.fixture(scope='module')
def clips():
  clips = np.random.default_rng(0).uniform(size=(3, *SHAPE))
  for axis in (2, 3):
    clips = sum(np.roll(clips, k, axis=axis) for k in range(4)) / 4
  return clips.astype(np.float32)


@pytest.fixture(scope='module')
def watch(victim, clips):
  def watch(labels, client=None, **options):
    options = {'num_rounds': 2, 'server_learning_rate': 0.05} | options
    return vl.observe(victim, victim.init(jax.random.key(1)),
                      clips[:len(labels)], labels, client=client, **options)
  return watch


@pytest.fixture(scope='module')
def leak(watch):
  return watch(LABELS, vl.FedSGD(per='batch'))


@pytest.fixture(scope='module')
def target(victim, leak):
  target, = FeatureMatching().prepare([problem(victim, leak)])
  assert len(target.evidence) == len(target.params) == 2
  return target


def _misfit(victim, leak, target, clips):
  """Of the first update."""
  return float(FeatureMatching().term(victim, leak)(
      Guess(jnp.asarray(clips), None),
      target._replace(evidence=trees.take(target.evidence, 0))))


def test_the_truth_meets_the_equations_of_all_rounds(
    victim, clips, leak, target):
  """Clips that share a label are the same in both rounds."""
  assert min(_misfit(victim, leak, target, clips[order])
             for order in ([0, 1, 2], [1, 0, 2])) < 1e-5


def test_the_match_is_the_mean_over_rounds(victim, clips, leak, target):
  each = [_misfit(victim, leak, Target(params, evidence), 1 - clips)
          for params, evidence in zip(
              zip(target.params), zip(target.evidence), strict=True)]
  assert abs(each[1] / each[0] - 1) > 1e-2
  np.testing.assert_allclose(
      _misfit(victim, leak, target, 1 - clips), np.mean(each), rtol=1e-4)


def test_features_tell_clips_of_one_label_apart(target):
  one, other = (trees.take(each, 0) for each in target.evidence)
  swapped = feature_rounds.permuted(other, np.array([1, 0, 2]))
  assert feature_rounds.order_of(one, swapped).tolist() == [1, 0, 2]
  noise = np.random.default_rng(1).normal(size=one.output.shape)
  assert feature_rounds.order_of(one, other._replace(output=noise)) is None
  assert feature_rounds.order_of(
      one, other._replace(labels=np.array([2, 5, 5]))) is None


def test_rounds_that_tell_nothing_are_left_out(victim, watch):
  leak = watch([4], num_rounds=3)
  _, second, third = leak.rounds()
  nothing = jax.tree.map(jnp.zeros_like, second.update)
  leak = leak.replace(later_rounds=(Round(second.params, nothing), third))
  target, = FeatureMatching().prepare([problem(victim, leak)])
  assert len(target.evidence) == 2
  assert '2 of 3 rounds' in feature_rounds.note(leak, target)['rounds_note']
  np.testing.assert_array_equal(
      target.params[1]['head']['bias'], third.params['head']['bias'])
  alone, = FeatureMatching().prepare([problem(victim, leak.each_round()[0])])
  jax.tree.map(np.testing.assert_array_equal, alone.evidence[0],
               target.evidence[0])


@pytest.mark.slow
def test_three_rounds_tell_more_than_one(victim, clips, watch):
  leak = watch([2], num_rounds=3)
  attack = vl.attacks.feature_matching(num_steps=300, level_rounds=0)
  one, three = (psnr(vl.attack(
      victim, each, attack, key=jax.random.key(3)).clips[0], clips[:1])
                for each in (leak.each_round()[0], leak))
  assert three > one + 3


@pytest.mark.parametrize('labels', [[4], [4, 4]], ids=str)
def test_each_round_has_a_path_of_its_own(victim, clips, watch, labels):
  client = vl.FedAvg(per='batch', local_steps=3, local_learning_rate=1e-3)
  leak = watch(labels, client)
  sent, = path_refinement._known(
      problem(victim, leak), clips[None, :len(labels)], np.array([labels]))
  for one, own in zip(sent, leak.rounds(), strict=True):
    jax.tree.map(np.testing.assert_array_equal, one.params, own.params)


def test_paths_of_all_rounds_and_of_the_first_are_tried(
    victim, clips, watch, monkeypatch):
  leak = watch([4], vl.FedAvg(local_steps=3, local_learning_rate=1e-3))
  used = []
  monkeypatch.setattr(path_refinement, '_known', lambda problem, *answer: [
      problem.leak.each_round()])
  monkeypatch.setattr(
      path_refinement, '_round', lambda problem, sent, guess, _: (
          used.append(len(sent)), clips[:1] if len(sent) == 1 else guess)[1])
  start = Outcome(Recovery(
      1 - clips[None, :1], np.array([[4]], np.int32), np.zeros(1)), Cost(), {})
  found = path_refinement.refined(problem(victim, leak), start, rounds=2)
  assert used == [2, 2, 1]  # it ends where nothing is left to improve
  np.testing.assert_array_equal(found.recovery.clips[0], clips[:1])


@pytest.fixture(scope='module')
def two_answers(clips):
  """A wrong one and the right one, of one clip."""
  return [Outcome(Recovery(each[None, :1], np.array([[4]], np.int32),
                           np.zeros(1)), Cost(), {})
          for each in (1 - clips, clips)]


def test_only_a_poor_answer_has_the_first_round_tried(
    victim, watch, two_answers):
  whole = problem(victim, watch([4]))
  wrong, right = two_answers
  assert FeatureMatching().easier(whole, right) is None
  part = FeatureMatching().easier(whole, wrong)
  assert part.leak.num_rounds == 1
  assert FeatureMatching().easier(part, wrong) is None
  found = iterative.better(whole, wrong, right)
  assert found.recovery.clips is not right.recovery.clips
  np.testing.assert_array_equal(found.recovery.clips, right.recovery.clips)
  assert found.findings['answers_of_a_part'] == 1


@pytest.mark.slow
@pytest.mark.parametrize('at_once', [False, True])
def test_the_first_round_alone_may_give_the_answer(
    victim, watch, two_answers, monkeypatch, at_once):
  tried = []

  def finish(self, problem, target, outcome):
    tried.append(rounds := problem.leak.num_rounds)
    return two_answers[at_once or rounds == 1]
  monkeypatch.setattr(FeatureMatching, 'finish', finish)
  found = run_attack(FeatureMatching(num_steps=1), victim, watch([4]))
  assert tried == ([2] if at_once else [2, 1])
  np.testing.assert_array_equal(
      found.recovery.clips, two_answers[1].recovery.clips)
