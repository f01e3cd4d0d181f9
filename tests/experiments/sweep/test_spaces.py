"""Grids, draws and overrides become trials whose identity is their config."""

import pytest

from tests.experiments.sweep.conftest import config
from vidleak_jax.experiments.sweep import spaces
from vidleak_jax.types import UserError

RATE = 'attack.ig.learning_rate'


def _names(**sweep):
  return [trial.name for trial in spaces.trials(config(**sweep))]


def test_what_is_given_is_multiplied():
  found = spaces.trials(config(
      grid={'seed': range(3), RATE: (0.1, 0.2)},
      overrides=[{'attack.name': 'ig'}, {'attack.name': 'dlg'}],
      random={'attack.ig.start_std': ('uniform', 0.0, 1.0)}, num_samples=2))
  assert len({trial.name for trial in found}) == 2 * 2 * 3 * 2
  assert list(found[0].fields) == [
      'attack.ig.start_std', 'attack.name', 'seed', RATE]
  last = found[-1]
  assert (last.fields['seed'], last.audit.seed) == (2, 2)
  assert last.audit.attack.ig.learning_rate == 0.2
  assert last.audit.attack.name == 'dlg'
  assert 'sweep' not in last.audit.to_dict()


def test_a_wider_sweep_keeps_the_trials_that_were():
  assert set(_names(grid={'seed': range(3)})) < set(
      _names(grid={'seed': range(5)}))
  drawn = {RATE: ('log_uniform', 1e-3, 1.0)}
  few, many = (_names(random=drawn, num_samples=n) for n in (3, 6))
  assert many[:3] == few


def test_a_draw_does_not_depend_on_other_fields():
  one = {RATE: ('log_uniform', 1e-3, 1.0)}
  two = {'attack.ig.start_std': ('uniform', 0.0, 1.0)} | one
  rates = [[trial.fields[RATE] for trial in spaces.trials(
      config(random=fields, num_samples=4))] for fields in (one, two)]
  assert rates[0] == rates[1]
  assert len(set(rates[0])) == 4
  assert all(1e-3 <= rate <= 1.0 for rate in rates[0])


@pytest.mark.parametrize('how, allowed', [
    (('uniform', 2.0, 3.0), lambda x: 2 <= x <= 3),
    (('log_uniform', 2.0, 3.0), lambda x: 2 <= x <= 3),
    (('choice', (0.5, 0.25)), {0.5, 0.25}.__contains__),
    (('integers', 1, 3), {1.0, 2.0, 3.0}.__contains__),
])
def test_draws_stay_within_their_bounds(how, allowed):
  found = spaces.trials(config(random={RATE: how}, num_samples=50))
  values = [trial.fields[RATE] for trial in found]
  assert all(map(allowed, values)) and len(set(values)) > 1


def test_identity_is_the_config_and_nothing_else():
  assert spaces.identity({'a': 1, 'b': (2, 3)}) == spaces.identity(
      {'b': [2, 3], 'a': 1})
  assert spaces.identity({'a': 1}) != spaces.identity({'a': 2})
  assert _names(grid={RATE: (1, 1.0)}) == _names(grid={RATE: [1.0]})
  # The same trial, whichever way it is asked for.
  assert _names(grid={'seed': (7,)}) == _names(overrides=[{'seed': 7}])


@pytest.mark.parametrize('sweep, message', [
    ({'grid': {'attack.ig.learning_rat': (1.0,)}}, "mean 'learning_rate'"),
    ({'grid': {'seed.x': (1,)}}, 'No such config field: seed.x'),
    ({'grid': {'seed': ('a',)}}, "seed is 'a'; it must be a whole number"),
    ({'grid': {'seed': (0.5,)}}, 'seed is 0.5; it must be a whole number'),
    ({'grid': {'attack.ig': (1,)}}, 'attack.ig is'),
    ({'overrides': [{'atack.name': 'ig'}]}, "mean 'attack'"),
    ({'random': {'seed': ('normal', 0, 1)}}, "'normal'.*log_uniform"),
    ({'random': {RATE: ('log_uniform', 0.0, 1)}}, 'takes two numbers above 0'),
    ({'random': {RATE: ('uniform', 1)}}, 'takes two numbers'),
    ({'random': {RATE: ('uniform', 1, 'x')}}, 'takes two numbers'),
    ({'random': {RATE: ('choice', ())}}, 'takes a list of values'),
    ({'random': {RATE: 0.5}}, 'must begin with one of uniform'),
    ({'grid': {'seed': ()}}, 'a list of values, at least one'),
    ({'num_samples': 0}, 'num_samples is 0'),
    ({'grid': {RATE: (0.1, float('nan'))}}, 'learning_rate is nan.*above 0'),
    ({'grid': {RATE: (0.1, -1.0)}}, 'attack.ig.learning_rate is -1.0'),
    ({'grid': {'attack.name': ('ig', 'magic')}}, 'attack.name is .magic'),
    ({'overrides': [{'attack.num_restarts': 0}]}, 'num_restarts is 0'),
    ({'random': {'defense.prune_fraction': ('uniform', 1.0, 2.0)}},
     'prune_fraction is 1.*below 1'),
])
def test_mistakes_are_told(sweep, message):
  with pytest.raises(UserError, match=message):
    spaces.trials(config(**sweep))


def test_a_config_without_a_sweep_is_told():
  plain = config()
  del plain['sweep']
  with pytest.raises(UserError, match='no field `sweep`'):
    spaces.trials(plain)
