"""A sweep runs each trial once, whatever fails and whenever it is cut short."""

import errno
import json

import pytest

from tests.experiments.sweep.conftest import Here, config, rows
from vidleak_jax.experiments import audit
from vidleak_jax.experiments.sweep import locks, outcomes, runner, spaces
from vidleak_jax.types import UserError

RATE = 'attack.ig.learning_rate'


def _run(folder, engine=Here, **options):
  grid = options.pop('grid', {'seed': range(4)})
  return runner.run(config(grid=grid), folder, engine, log_fn=lambda _: None,
                    **options)


def test_each_trial_runs_once_and_gets_a_row(tmp_path, audits):
  assert _run(tmp_path) == (4, [])
  assert sorted(row['seed'] for row in rows(tmp_path)) == [0, 1, 2, 3]
  assert {row['status'] for row in rows(tmp_path)} == {'done'}
  assert (tmp_path / 'results.parquet').exists()
  assert json.loads((tmp_path / 'sweep.json').read_text())['fields'] == ['seed']
  ran = len(audits)
  assert _run(tmp_path) == (4, [])
  assert len(audits) == ran


def test_more_values_run_only_what_is_new(tmp_path, audits):
  _run(tmp_path)
  del audits[:]
  assert _run(tmp_path, grid={'seed': range(6)}) == (6, [])
  assert sum(map(len, audits)) == 2
  assert len(rows(tmp_path)) == 6


def test_fewer_values_leave_the_other_rows(tmp_path, audits):
  _run(tmp_path)
  assert _run(tmp_path, grid={'seed': (1,)}) == (1, [])
  assert len(rows(tmp_path)) == 4


def test_a_failure_is_recorded_and_does_not_stop_the_rest(tmp_path, audits):
  grid = {RATE: (0.1, 2.0, 0.2)}
  summary = _run(tmp_path, grid=grid)
  assert summary.done == 2
  assert summary.failed[0]['error'] == 'ValueError: learning_rate is too large'
  assert 'retry_failed' in summary.text(tmp_path)
  assert [row['status'] for row in rows(tmp_path)].count('failed') == 1
  home = outcomes.home(tmp_path, summary.failed[0]['trial'])
  assert 'too large' in (home / 'error.txt').read_text()
  ran = len(audits)
  assert len(_run(tmp_path, grid=grid).failed) == 1
  assert len(audits) == ran  # it is not tried again by itself


def test_failed_trials_are_retried_when_asked_for(tmp_path, audits):
  grid = {RATE: (0.1, 2.0)}
  _run(tmp_path, grid=grid)
  del audits[:]
  assert len(_run(tmp_path, grid=grid, retry_failed=True).failed) == 1
  assert [len(call) for call in audits] == [1]
  assert len(rows(tmp_path)) == 2


def test_one_members_crash_is_not_the_others(tmp_path, audits):
  summary = _run(tmp_path, grid={RATE: (0.1, 0.2, 0.3, 11.0)}, group_size=8)
  assert summary.done == 3
  assert summary.failed[0]['error'] == 'FloatingPointError: the program crashed'


class Losing(Here):
  """Its workers die."""

  def poll(self, seconds):
    finished, = super().poll(seconds)
    for name in finished.group.members[1:]:
      (outcomes.home(self.folder, name) / 'result.json').unlink()
    return [finished._replace(lost='The worker died.')]


def test_what_a_dead_worker_left_is_failed_and_the_rest_is_done(
    tmp_path, audits):
  summary = _run(tmp_path, Losing)
  assert summary.done == 2
  assert [row['error'] for row in summary.failed] == ['The worker died.'] * 2


def test_a_full_disk_stops_the_sweep_and_fails_no_trial(
    tmp_path, audits, monkeypatch):
  working = audit.run_many

  def full(configs, folders, shared, *, log_fn):
    working(configs[:1], folders[:1], shared, log_fn=log_fn)
    try:
      raise OSError(errno.ENOSPC, 'No space left on device')
    except OSError as error:
      raise UserError('No checkpoint could be written.') from error
  monkeypatch.setattr(audit, 'run_many', full)
  with pytest.raises(UserError, match=r'disk is full.*same command'):
    _run(tmp_path)
  assert {row['status'] for row in rows(tmp_path)} <= {'done'}
  monkeypatch.setattr(audit, 'run_many', working)
  assert _run(tmp_path) == (4, [])
  assert len(rows(tmp_path)) == 4


def test_a_second_launcher_says_so(tmp_path, audits):
  with locks.sole_launcher(tmp_path):
    with pytest.raises(UserError, match='Another launcher is at work'):
      _run(tmp_path)
  assert not audits and not (tmp_path / 'results.jsonl').exists()


def test_workers_of_an_earlier_launcher_leave_their_groups_alone(tmp_path):
  (tmp_path / 'groups').mkdir()
  with locks.sole_launcher(tmp_path) as old:
    with locks.sole_worker(tmp_path, 'g', old):
      pass
  with locks.sole_launcher(tmp_path) as new:
    with pytest.raises(locks.Superseded):
      with locks.sole_worker(tmp_path, 'g', old):
        pass
    with locks.sole_worker(tmp_path, 'g', new):
      pass


def test_identical_trials_of_two_workdirs_have_one_name(tmp_path, audits):
  for folder in (tmp_path / 'a', tmp_path / 'b'):
    _run(folder)
  a, b = ({row['trial'] for row in rows(tmp_path / name)} for name in 'ab')
  assert a == b == {trial.name for trial in spaces.trials(
      config(grid={'seed': range(4)}))}
