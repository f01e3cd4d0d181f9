import io
import json

import jax.numpy as jnp
import numpy as np
import pytest

from vidleak_jax.runtime import progress
from vidleak_jax.runtime.progress import MetricsLog, Progress, read_rows
from vidleak_jax.types import UserError


class Terminal(io.StringIO):

  def isatty(self):
    return True


@pytest.fixture
def clock(monkeypatch):
  """A clock that the test moves: `clock[0] += seconds`."""
  now = [1000.0]
  monkeypatch.setattr(progress, 'monotonic', lambda: now[0])
  return now


def test_plain_lines_come_at_intervals_and_at_the_end(clock):
  stream = io.StringIO()
  with Progress(100, 'attack', stream=stream) as shown:
    for done in range(1, 101):
      clock[0] += 1
      shown.update(done, loss=jnp.float32(1 / done))
  lines = stream.getvalue().splitlines()
  assert lines[0] == 'attack 1/100 steps, 1 steps/s, 0:01:39 left, loss 1'
  assert lines[-1].startswith('attack 100/100 steps')
  assert 8 <= len(lines) <= 12
  assert stream.getvalue().isprintable() or not any(
      c < ' ' for c in stream.getvalue().replace('\n', ''))


def test_the_rate_leaves_out_earlier_runs_and_the_compilation(clock):
  stream = io.StringIO()
  with Progress(1000, done=500, stream=stream) as shown:
    clock[0] += 60  # the first chunk compiles
    shown.update(600)
    clock[0] += 20
    shown.update(700)
  last = stream.getvalue().splitlines()[-1]
  assert '5 steps/s, 0:01:00 left' in last


def test_an_interrupted_run_keeps_its_last_line(clock):
  stream = io.StringIO()
  with pytest.raises(KeyboardInterrupt), Progress(9, stream=stream) as shown:
    shown.update(1)
    shown.update(2)
    raise KeyboardInterrupt
  assert '2/9' in stream.getvalue()


def test_a_terminal_gets_a_live_line(monkeypatch):
  monkeypatch.setenv('TERM', 'xterm')
  stream = Terminal()
  with Progress(10, 'attack', stream=stream) as shown:
    shown.update(10, best_loss=0.25, what='[odd] words')
  assert '\x1b' in stream.getvalue()
  assert '10/10 steps' in stream.getvalue()
  assert 'best loss 0.25' in stream.getvalue()


def test_a_row_is_plain_json(tmp_path):
  path = tmp_path / 'new' / 'metrics.jsonl'
  log = MetricsLog(path)
  log.write(3, loss=jnp.float32(.5), gone=float('nan'), far=np.inf,
            parts=np.array([1, np.nan]), note='ok', deep={'a': jnp.ones(2)})
  assert path.read_text().count('\n') == 1
  assert json.loads(path.read_text()) == {
      'step': 3, 'loss': .5, 'gone': None, 'far': None, 'parts': [1, None],
      'note': 'ok', 'deep': {'a': [1, 1]}}


def test_resume_drops_later_rows_and_a_torn_one(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  log = MetricsLog(path)
  for step in (10, 20, 30):
    log.write(step, loss=1.0)
  with path.open('a') as file:
    file.write('{"step": 40, "lo')
  assert [row['step'] for row in read_rows(path)] == [10, 20, 30]
  resumed = MetricsLog(path)
  resumed.truncate_after(20)
  resumed.write(30, loss=2.0)
  assert [(r['step'], r['loss']) for r in read_rows(path)] == [
      (10, 1), (20, 1), (30, 2)]
  assert [p.name for p in tmp_path.iterdir()] == ['metrics.jsonl']


def test_a_torn_line_does_not_swallow_the_next_row(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_text('{"step": 1}\n{"st')
  MetricsLog(path).write(2)
  assert read_rows(path) == [{'step': 1}, {'step': 2}]


def test_damage_inside_the_file_is_said(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_text('{"step": 1}\nnonsense\n{"step": 2}\n')
  with pytest.raises(UserError, match='line 2'):
    read_rows(path)
  assert read_rows(tmp_path / 'absent') == []


def test_tensorboard_gets_the_scalars(tmp_path):
  pytest.importorskip('tensorboardX')
  with MetricsLog(tmp_path / 'metrics.jsonl', tensorboard=True) as log:
    log.write(1, loss=.5, gone=float('nan'), note='word')
    log.truncate_after(0)
    log.write(1, loss=.25)
  events = b''.join(
      p.read_bytes() for p in (tmp_path / 'tensorboard').iterdir())
  assert b'loss' in events
  assert b'gone' not in events
