"""Rows are never lost, doubled or torn, and follow the trial folders."""

import errno
import json
import os

import pytest
from pyarrow import parquet

from tests.experiments.sweep.conftest import config, finish, rows
from vidleak_jax.experiments.sweep import outcomes, spaces
from vidleak_jax.experiments.sweep.table import Table


@pytest.fixture
def trials():
  return spaces.trials(config(grid={'seed': range(3)}))


def test_a_row_has_trial_status_fields_and_results(tmp_path, trials):
  finish(tmp_path, trials[2], psnr=20.0, psnr_per_frame=[[19.0, 21.0]])
  table = Table(tmp_path)
  table.adopt(trials)
  assert rows(tmp_path) == [{
      'trial': trials[2].name, 'status': 'done', 'seed': 2, 'psnr': 20.0,
      'psnr_per_frame': [[19.0, 21.0]]}]
  outcomes.record_failure(tmp_path, trials[0].name, 'ValueError: no', 'trace')
  table.add(trials[0])
  table.add(trials[0])
  assert rows(tmp_path)[1:] == [{
      'trial': trials[0].name, 'status': 'failed', 'seed': 0,
      'error': 'ValueError: no'}]


def test_a_killed_launchers_table_is_mended(tmp_path, trials):
  for trial in trials:
    finish(tmp_path, trial)
  good = [json.dumps(outcomes.row(tmp_path, trial)) for trial in trials]
  stray = json.dumps({'trial': 'f' * 16, 'status': 'done', 'seed': 9})
  torn = '\n'.join([good[0], good[0], stray, good[1][:30]])
  (tmp_path / 'results.jsonl').write_text(torn)
  Table(tmp_path).adopt(trials)
  assert [row['trial'] for row in rows(tmp_path)] == [t.name for t in trials]


def test_a_whole_last_row_without_its_newline_is_kept_whole(tmp_path, trials):
  finish(tmp_path, trials[0])
  finish(tmp_path, trials[1])
  path = tmp_path / 'results.jsonl'
  path.write_text(json.dumps(outcomes.row(tmp_path, trials[0])))
  Table(tmp_path).adopt(trials)
  assert [row['trial'] for row in rows(tmp_path)] == [
      trial.name for trial in trials[:2]]


def test_rows_get_the_fields_of_a_wider_sweep(tmp_path, trials):
  finish(tmp_path, trials[0])
  Table(tmp_path).adopt(trials)
  wider = spaces.trials(config(grid={
      'seed': (0,), 'attack.ig.learning_rate': (0.05, 0.1)}))
  assert wider[0].name == trials[0].name
  Table(tmp_path).adopt(wider)
  assert rows(tmp_path)[0]['attack.ig.learning_rate'] == 0.05


def test_a_full_disk_leaves_no_half_row(tmp_path, trials, monkeypatch):
  for trial in trials:
    finish(tmp_path, trial)
  table = Table(tmp_path)
  table.add(trials[0])
  before = (tmp_path / 'results.jsonl').read_bytes()
  write, calls = os.write, []

  def half(file, data):
    calls.append(file)
    if len(calls) > 1:
      raise OSError(errno.ENOSPC, 'No space left on device')
    return write(file, data[:10])
  monkeypatch.setattr(os, 'write', half)
  with pytest.raises(OSError, match='No space'):
    table.add(trials[1])
  monkeypatch.undo()
  assert (tmp_path / 'results.jsonl').read_bytes() == before
  table.add(trials[1])
  assert len(rows(tmp_path)) == 2


def test_parquet_holds_every_row_and_column(tmp_path, trials):
  finish(tmp_path, trials[0], psnr=1.0, odd=[1, 2])
  finish(tmp_path, trials[1], psnr=2.0, odd='text', ssim=None)
  outcomes.record_failure(tmp_path, trials[2].name, 'ValueError: no', 'trace')
  table = Table(tmp_path)
  table.adopt(trials)
  table.write_parquet()
  found = parquet.read_table(tmp_path / 'results.parquet').to_pylist()
  assert [row['trial'] for row in found] == [trial.name for trial in trials]
  assert [row['psnr'] for row in found] == [1.0, 2.0, None]
  assert [row['odd'] for row in found] == ['[1, 2]', '"text"', None]
  assert found[2]['error'] == 'ValueError: no'
