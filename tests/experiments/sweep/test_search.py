"""A search follows the match of the leak and never sees a score."""

import json

import pytest

from tests.experiments.sweep.conftest import Here, config, rows
from vidleak_jax.experiments.sweep import outcomes, runner, search
from vidleak_jax.types import UserError

optuna = pytest.importorskip('optuna', reason='Optuna is an extra: [optuna].')
RATE = 'attack.ig.learning_rate'


def _config(**more):
  return config(random={RATE: ('log_uniform', 1e-3, 1.0)}, num_samples=16,
                **more)


def _row(trial):
  """The match is best at 0.03; the score lies and is best at 1."""
  rate = trial.fields[RATE]
  return {'trial': trial.name, 'status': 'done', **trial.fields,
          'match_loss': abs(rate - 0.03), 'psnr': 100 * rate}


def _rounds(plan, most=99):
  rounds = []
  while len(rounds) < most and (trials := plan.ask()):
    plan.tell([_row(trial) for trial in trials])
    rounds.append(trials)
  return rounds


def test_it_seeks_the_best_match(tmp_path):
  rounds = _rounds(search.plan('optuna', _config(), tmp_path))
  rates = [trial.fields[RATE] for trials in rounds for trial in trials]
  assert len(rates) == 16 and len(rounds) == 4
  early, late = (sum(abs(rate - 0.03) for rate in part)
                 for part in (rates[:8], rates[-4:]))
  assert late / 4 < early / 8


def test_a_draw_stands_in_the_whole_grid(tmp_path):
  plan = search.plan('optuna', _config(grid={'seed': range(3)}), tmp_path)
  assert plan.total == 48
  trials = plan.ask()
  assert len(trials) == 4 * 3
  assert {trial.fields['seed'] for trial in trials} == {0, 1, 2}
  assert plan.fields == [RATE, 'seed']


def test_a_search_that_was_cut_short_goes_on(tmp_path):
  plan = search.plan('optuna', _config(), tmp_path)
  _rounds(plan, 2)
  cut = [trial.name for trial in plan.ask()]
  again = search.plan('optuna', _config(), tmp_path)
  first = again.ask()
  assert len(first) == 12 and [trial.name for trial in first[-4:]] == cut
  again.tell([_row(trial) for trial in first])
  assert len(_rounds(again)) == 1


def test_a_sweep_that_searches_is_finished_once(tmp_path, audits):
  def run():
    return runner.run(_config(), tmp_path, Here, sampler='optuna',
                      log_fn=lambda _: None)
  assert run() == (16, [])
  assert len(rows(tmp_path)) == 16 and sum(map(len, audits)) == 16
  assert run() == (16, [])
  assert sum(map(len, audits)) == 16


def test_the_match_without_priors_counts_where_it_is_known(tmp_path):
  row = {'trial': 'abc', 'match_loss': 5.0, 'psnr': 9.0}
  assert search.match(tmp_path, row) == 5.0
  home = outcomes.home(tmp_path, 'abc')
  home.mkdir(parents=True)
  (home / 'metrics.jsonl').write_text(''.join(
      json.dumps({'step': i, 'match': 3.0 - i}) + '\n' for i in range(2)))
  assert search.match(tmp_path, row) == 2.0


def test_without_a_space_there_is_nothing_to_search(tmp_path):
  with pytest.raises(UserError, match=r'sweep\.random'):
    search.plan('optuna', config(grid={'seed': range(2)}), tmp_path)
