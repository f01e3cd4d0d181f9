"""Checkpoints: the newest that can be read, and what was wrong is told."""

import json
import shutil

import numpy as np
import pytest

from vidleak_jax.runtime.checkpoint import Checkpoints
from vidleak_jax.runtime.run_logger import RunLogger

STATE = {'clips': np.arange(20000.0, dtype=np.float32).reshape(2, -1),
         'step': np.zeros(2, np.int32)}


def _state(step):
  return {'clips': STATE['clips'] + step, 'step': STATE['step'] + step}


@pytest.fixture
def folder(tmp_path):
  """With the checkpoints of steps 10 and 20."""
  checkpoints = Checkpoints(tmp_path / 'checkpoints')
  for step in (10, 20):
    checkpoints.save(step, _state(step), {'step': step})
  checkpoints.close()
  return tmp_path / 'checkpoints'


def _largest(folder):
  return max((p for p in folder.rglob('*') if p.is_file()),
             key=lambda p: p.stat().st_size)


def truncate_arrays(step):
  file = _largest(step)
  file.write_bytes(file.read_bytes()[:100])


def truncate_facts(step):
  for file in (step / 'facts').iterdir():
    if file.is_file():
      file.write_text(file.read_text()[:5])


def overwrite_everything(step):
  for file in step.rglob('*'):
    if file.is_file():
      file.write_bytes(b'\0' * file.stat().st_size)


def lose_arrays(step):
  shutil.rmtree(step / 'state')


DAMAGES = pytest.mark.parametrize('damage', [
    truncate_arrays, truncate_facts, overwrite_everything, lose_arrays])


def _restore(folder):
  told = []
  checkpoints = Checkpoints(folder, log_fn=told.append)
  found = checkpoints.restore(STATE)
  checkpoints.close()
  return found, ' '.join(told)


def test_the_newest_is_taken_and_nothing_is_told(folder):
  (state, facts), told = _restore(folder)
  assert facts == {'step': 20} and not told
  np.testing.assert_array_equal(state['clips'], _state(20)['clips'])


@DAMAGES
def test_of_a_damaged_one_the_one_before_is_taken(folder, damage):
  damage(folder / '20')
  (state, facts), told = _restore(folder)
  assert facts == {'step': 10}
  np.testing.assert_array_equal(state['clips'], _state(10)['clips'])
  assert 'step 20 cannot be read' in told
  assert 'from the checkpoint of step 10' in told
  assert (folder / 'damaged_20').is_dir()


@DAMAGES
def test_where_none_is_left_the_run_starts_anew(folder, damage):
  for step in ('10', '20'):
    damage(folder / step)
  found, told = _restore(folder)
  assert found is None and 'starting anew' in told


def test_the_run_goes_on_past_the_damaged_one(folder):
  for _ in range(2):
    truncate_arrays(folder / '20')
    checkpoints = Checkpoints(folder, log_fn=lambda _: None)
    checkpoints.restore(STATE)
    for step in (20, 30):
      checkpoints.save(step, _state(step), {'step': step})
    checkpoints.close()
    assert _restore(folder)[0][1] == {'step': 30}
    shutil.rmtree(folder / '30')
  assert {p.name for p in folder.glob('damaged*')} == {
      'damaged_20', 'damaged_20_1'}


def test_another_shape_is_not_taken_for_the_state(folder):
  checkpoints = Checkpoints(folder, log_fn=lambda _: None)
  assert checkpoints.restore({**STATE, 'step': np.zeros(3, np.int32)}) is None
  checkpoints.close()


def test_the_logger_tells_on_stderr(folder, capsys):
  truncate_arrays(folder / '20')
  with RunLogger(folder.parent, [folder.parent]) as logger:
    _, facts = logger.resume(STATE)
  assert json.dumps(facts) == '{"step": 10}'
  assert 'step 20 cannot be read' in capsys.readouterr().err
