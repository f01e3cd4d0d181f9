"""`auto` ranks by the residual alone, and says all that it tried."""

import dataclasses
import json
from typing import ClassVar

import jax
import numpy as np
import pytest

from tests.helpers import dense_victim, problem, run_attack, small_clips
from vidleak_jax.attacks import ATTACKS, Attack, Effort, Outcome, solve
from vidleak_jax.attacks.auto import (
    NOTHING,
    PARTLY,
    RECOVERED,
    Auto,
    AutoWith,
)
from vidleak_jax.attacks.base import Cost
from vidleak_jax.attacks.matching.gradient_matching import InvertingGradients
from vidleak_jax.clients import FedSGD, observe
from vidleak_jax.errors import OutOfTime
from vidleak_jax.options import option
from vidleak_jax.specs import DefenseSpec
from vidleak_jax.types import Recovery, UserError

LABELS = np.array([[1], [4]], np.int32)
RAN = []  # names of the stubs that were run, in order


@dataclasses.dataclass(frozen=True)
class Stub(Attack):
  """Answers with the truth, mixed with grey by `error`."""
  name: ClassVar[str] = 'stub'
  cost: ClassVar[int] = 1
  called: str = option('stub', 'by the test')
  error: float = option(0.0, '0: the truth, 1: grey')
  seconds: float = option(1.0, 'that it says it took')
  refuses: str = option('', 'why it does not apply')
  fails: str = option('', 'why it finds nothing')
  blurred: tuple[int, ...] = option((), 'updates that it answers with grey')
  blind: bool = option(False, 'whether the answer is not a number')

  def __post_init__(self):
    super().__post_init__()
    object.__setattr__(self, 'name', self.called)

  def requires(self, victim, leak):
    return [self.refuses] if self.refuses else []

  def run(self, problem, effort):
    RAN.append(self.called)
    if self.fails:
      raise UserError(self.fails)
    clips = (1 - self.error) * small_clips(2) + self.error * 0.5
    clips[list(self.blurred)] = 0.5
    if self.blind:
      clips = np.full_like(clips, np.nan)
    if problem.session.folder:
      assert problem.session.folder.is_dir()
    recovery = Recovery(clips[:, None].astype(np.float32), LABELS,
                        np.array([0.25, 0.5], np.float32))
    return Outcome(recovery, Cost(seconds_attack=self.seconds),
                   {'note': self.called})


@pytest.fixture(scope='module')
def victim():
  return dense_victim()


@pytest.fixture(scope='module')
def leak(victim):
  return observe(victim, victim.init(None), small_clips(2), LABELS[:, 0],
                 client=FedSGD(labels_known=True))


@pytest.fixture
def choose(victim, leak):
  def choose(*stubs, folder=None, **options):
    RAN.clear()
    # What a polish adds has a test of its own.
    return Auto(**{'polish_steps': 0} | options).choose(
        problem(victim, leak, folder), Effort(), stubs)
  return choose


def tried(outcome):
  """name -> why it was not tried to its end, or ''."""
  return {row['name']: row['why_not'] for row in outcome.findings['attempts']}


def test_the_lowest_residual_answers(choose):
  found = choose(Stub('far', 0.5), Stub('near', 0.1), Stub('grey', 1.0))
  assert found.findings['attack'] == found.findings['note'] == 'near'
  rows = {row['name']: row['gradient_residual']
          for row in found.findings['attempts']}
  assert rows['near'] < rows['far'] < rows['grey']
  np.testing.assert_allclose(
      rows['near'], found.recovery.gradient_residual.mean(), rtol=1e-6)
  np.testing.assert_allclose(
      rows['grey'], found.findings['gradient_residual_grey'], rtol=1e-5)
  assert found.cost.seconds_attack == 3


def test_what_an_attack_says_of_itself_does_not_rank(choose):
  """Objectives of different attacks cannot be compared: both say the same."""
  one, other = choose(Stub('a', 0.5), Stub('b', 0.1)), choose(
      Stub('b', 0.1), Stub('a', 0.5))
  assert one.findings['attack'] == other.findings['attack'] == 'b'


def test_a_certified_answer_ends_the_search(choose):
  found = choose(Stub('far', 0.5), Stub('exact'), Stub('other'))
  assert RAN == ['far', 'exact']
  assert tried(found)['other'] == (
      'not tried: an answer was certified before')
  assert found.findings['verdict'] == RECOVERED


def test_an_answer_within_the_noise_ends_the_search(victim):
  """Ranking what is left would rank by the noise."""
  noisy = observe(victim, victim.init(None), small_clips(2), LABELS[:, 0],
                  client=FedSGD(labels_known=True),
                  defense=DefenseSpec(noise_std=0.01), key=jax.random.key(0))
  found = Auto(polish_steps=0).choose(
      problem(victim, noisy), Effort(),
      [Stub('far', 0.7), Stub('truth'), Stub('other')])
  assert min(found.findings['gradient_residual_per_update']) > 0.02
  assert tried(found)['other'] == (
      'not tried: an answer was certified before')
  assert not tried(found)['far'] and found.findings['verdict'] == RECOVERED


def test_no_attack_is_begun_once_the_budget_is_spent(choose):
  found = choose(Stub('a', 0.5, seconds=6), Stub('b', 0.4, seconds=5),
                 Stub('c', 0.1), budget_seconds=10)
  assert RAN == ['a', 'b'] and found.findings['attack'] == 'b'
  assert tried(found)['c'] == 'not tried: the budget was spent'


def test_one_that_fails_or_does_not_apply_is_said(choose):
  found = choose(Stub('a', refuses='no layers'), Stub('b', fails='it is dark'),
                 Stub('c', 0.1))
  assert tried(found) == {'a': 'no layers', 'b': 'failed: it is dark', 'c': ''}
  assert RAN == ['b', 'c']


def test_the_time_of_one_that_failed_is_counted(choose):
  found = choose(Stub('a', fails='it is dark'), Stub('b', 0.1))
  first, second = found.findings['attempts']
  assert first['seconds'] > 0 and second['seconds'] == 1
  np.testing.assert_allclose(
      found.cost.seconds_attack, first['seconds'] + 1)


def test_one_that_the_deadline_stops_is_told_and_not_kept(
    victim, leak, tmp_path, monkeypatch):
  """Until the budget alone ends it, a certified answer does not."""
  def slow(self, problem, effort):
    assert 0 < problem.session.seconds_left() < 100
    raise OutOfTime('the time was over in it, 1 of 2')
  ran = Auto(budget_seconds=100).explore(
      problem(victim, leak, tmp_path), Effort(),
      [Stub('exact'), Stub('more', 0.5)], exhaustive=True)
  assert [row.why_not for row in ran.attempts] == ['', '']
  monkeypatch.setattr(Stub, 'run', slow)
  ran = Auto(budget_seconds=100).explore(
      problem(victim, leak, tmp_path), Effort(), [Stub('other')],
      exhaustive=True)
  assert 'the time was over' in ran.attempts[0].why_not
  assert ran.outcomes == {} and ran.best is None


def test_an_iterative_one_is_stopped_with_its_best_and_goes_on(
    victim, leak, tmp_path):
  ours = InvertingGradients(num_steps=6)
  stopped = Effort(chunk_steps=2)
  early = problem(victim, leak, tmp_path)
  early = early._replace(session=early.session.until(0.0))
  cut, = solve([early], [ours], stopped, tmp_path)
  assert cut.cost.num_steps == 2
  assert cut.findings['stopped_early'] == 'stopped after 2 of 6 steps'
  later, = solve([problem(victim, leak, tmp_path)], [ours], stopped, tmp_path)
  whole, = solve([problem(victim, leak)], [ours], stopped)
  assert later.cost.num_steps == 6 and 'stopped_early' not in later.findings
  np.testing.assert_array_equal(later.recovery.clips, whole.recovery.clips)


def test_what_is_no_number_never_answers(choose):
  found = choose(Stub('blind', blind=True), Stub('far', 0.9))
  assert found.findings['attack'] == 'far'
  assert 'not finite' in tried(found)['blind']


def test_where_none_answers_all_reasons_are_told(choose):
  with pytest.raises(UserError, match='a: no layers; b: failed: it is dark'):
    choose(Stub('a', refuses='no layers'), Stub('b', fails='it is dark'))


def test_other_mistakes_are_not_swallowed(choose, monkeypatch):
  def broken(self, problem, effort):
    raise ZeroDivisionError
  monkeypatch.setattr(Stub, 'run', broken)
  with pytest.raises(ZeroDivisionError):
    choose(Stub('a'), Stub('b'))


@pytest.mark.parametrize(('error', 'verdict'), [
    (0.0, RECOVERED), (0.2, PARTLY), (1.0, NOTHING)])
def test_the_verdict(choose, error, verdict):
  assert choose(Stub('a', error)).findings['verdict'] == verdict


def test_no_verdict_says_that_a_leak_is_safe():
  for residual in (0.0, 0.009, 0.02, 0.5, 1.0, 100.0, np.inf):
    for grey in (0.0, 1e-3, 1.0, 10.0):
      said = Auto().verdict(residual, grey)
      assert said in (RECOVERED, PARTLY, NOTHING)
      assert not any(word in said for word in ('safe', 'no leak', 'private'))
      assert (said == RECOVERED) == (residual <= 0.01)
  assert 'these attacks' in NOTHING and 'budget' in NOTHING


def test_a_folder_is_resumed_bit_equal_without_running_again(
    choose, tmp_path):
  stubs = Stub('far', 0.5), Stub('near', 0.1)
  first = choose(*stubs, folder=tmp_path)
  assert RAN == ['far', 'near']
  again = choose(*stubs, folder=tmp_path)
  assert RAN == []
  for a, b in zip(first.recovery, again.recovery, strict=True):
    if a is None:
      assert b is None
    else:
      assert a.dtype == b.dtype
      np.testing.assert_array_equal(a, b)
  assert again.cost == first.cost and again.findings == first.findings
  json.dumps(again.findings, allow_nan=False)


def test_one_that_was_cut_runs_again(choose, tmp_path):
  first = choose(Stub('far', 0.5), Stub('near', 0.1), folder=tmp_path)
  (tmp_path / 'checkpoints/near/outcome.json').unlink()
  again = choose(Stub('far', 0.5), Stub('near', 0.1), folder=tmp_path)
  assert RAN == ['near']
  np.testing.assert_array_equal(first.recovery.clips, again.recovery.clips)


def test_it_tries_the_registry_from_cheap_to_dear():
  names = [attack.name for attack in Auto()._candidates()]
  assert 'auto' not in names and {'ig', 'feature_matching'} <= set(names)
  costs = [ATTACKS[name].cost for name in names]
  assert costs == sorted(costs)
  assert [a.name for a in Auto(only=('dlg', 'ig'))._candidates()] == [
      'ig', 'dlg']


@pytest.mark.parametrize(('defense', 'first'), [
    (DefenseSpec(noise_std=1e-6), 'defense_aware'), (DefenseSpec(), 'cheap'),
    (None, 'cheap')])
def test_behind_a_defence_what_knows_it_comes_first(
    victim, leak, defense, first):
  RAN.clear()
  stubs = Stub('cheap'), Stub('defense_aware')
  run_attack(AutoWith(attacks=stubs, polish_steps=0), victim, leak.replace(
      public=leak.public.replace(defense=defense)))
  assert RAN == [first]  # which is certified


def test_chosen_options_are_those_that_run(victim, leak):
  ours = InvertingGradients(num_steps=7)
  auto = AutoWith(attacks=(ours,), only=('ig',), polish_steps=0)
  found = run_attack(auto, victim, leak)
  assert found.cost.num_steps == 7
  assert found.findings['attack'] == 'ig'
  assert tried(found) == {'ig': ''}


def test_a_real_search_finds_the_clip(victim, leak, tmp_path):
  """Every attack that applies to two dense layers; no truth is at hand."""
  attacks = InvertingGradients(num_steps=400, learning_rate=0.02),
  auto = AutoWith(attacks=attacks, only=('ig',), polish_steps=0)
  found = run_attack(auto, victim, leak, tmp_path)
  assert found.findings['verdict'] in (PARTLY, RECOVERED)
  again = run_attack(auto, victim, leak, tmp_path)
  np.testing.assert_array_equal(found.recovery.clips, again.recovery.clips)
  assert again.cost == found.cost


def test_where_nothing_applies_it_says_so(victim, leak):
  with pytest.raises(UserError, match='No attack gave an answer: rgap: '):
    run_attack(Auto(only=('rgap',)), victim, leak)


def test_a_polish_comes_closer_and_is_told(choose):
  rough = choose(Stub('far', 0.5))
  found = choose(Stub('far', 0.5), polish_steps=2)
  assert found.recovery.gradient_residual.mean() < 0.1 * (
      rough.recovery.gradient_residual.mean())
  assert tried(found) == {'far': '', 'polish': ''}


def test_what_is_near_is_polished_before_dearer_attacks(choose):
  """A dear attack would leave no budget for it, and gain less."""
  found = choose(Stub('near', 0.1), Stub('dear', 0.2, seconds=1e4),
                 polish_steps=3, near=0.5)
  assert RAN == ['near']
  assert list(tried(found)) == ['near', 'polish', 'dear']
  assert found.findings['verdict'] == RECOVERED
  far = choose(Stub('far', 0.1), Stub('other', 0.2), polish_steps=3, near=0.02)
  assert list(tried(far)) == ['far', 'other', 'polish']


def test_a_polish_that_does_not_certify_is_not_done_again(choose):
  found = choose(Stub('near', 0.1), Stub('dear', 0.2), polish_steps=3,
                 near=0.5, certified=0.0)
  assert list(tried(found)) == ['near', 'polish', 'dear']
  again = choose(Stub('far', 0.2), Stub('near', 0.001), polish_steps=1,
                 near=0.5, certified=0.0)
  assert RAN == ['far', 'near']
  assert again.findings['attempts'][1]['name'] == 'polish'


def test_each_update_gets_the_answer_that_is_best_for_it(choose):
  found = choose(Stub('first', blurred=(1,)), Stub('second', blurred=(0,)))
  assert found.findings['attack_per_update'] == ['first', 'second']
  np.testing.assert_allclose(
      found.recovery.clips[:, 0], small_clips(2), atol=1e-6)
  assert found.findings['verdict'] == RECOVERED


def test_one_update_that_is_not_recovered_is_not_hidden_by_the_mean(choose):
  found = choose(Stub('half', blurred=(1,)), Stub('other', 1.0), certified=0.4,
                 doubtful=0.9)
  assert found.findings['verdict_per_update'] == [RECOVERED, NOTHING]
  assert found.findings['verdict'] == PARTLY
  assert tried(found)['other'] == ''  # not certified, so it was tried


def test_a_polish_that_would_not_end_in_time_is_not_begun(choose):
  found = choose(Stub('far', 0.5), polish_steps=1000, budget_seconds=1.5)
  assert 'not tried: about' in tried(found)['polish']
