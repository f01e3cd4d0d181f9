"""Real workers and launchers, really killed."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.experiments.sweep.conftest import rows
from tests.helpers import ROOT
from vidleak_jax.experiments.sweep import outcomes
from vidleak_jax.experiments.sweep.engines import local, slots
from vidleak_jax.experiments.sweep.groups import Group
from vidleak_jax.runtime.progress import read_rows

pytestmark = pytest.mark.process

CONFIG = '''
"""Four trials."""
from vidleak_jax.recipes import sweeps
from vidleak_jax.recipes.sweeps import tiny


def get_config():
  config = tiny.get_config()
  config.attack.num_steps, config.attack.chunk_steps = 4000, 40
  config.sweep = sweeps.space(grid={'seed': range(4)})
  return config
'''
TIMINGS = ('seconds_compile', 'seconds_attack', 'restart_steps_per_second',
           'peak_memory_bytes')


@pytest.fixture(scope='module')
def start(tmp_path_factory):
  file = tmp_path_factory.mktemp('config') / 'four.py'
  file.write_text(CONFIG)
  env = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'}
  env['PYTHONPATH'] = str(ROOT)

  def start(folder, *args):
    return subprocess.Popen(
        [sys.executable, 'launch/sweep.py', f'--config={file}', '--workers=2',
         f'--workdir={folder}', *args], cwd=ROOT, env=env,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
  return start


def _workers(launcher):
  found = []
  for thread in Path(f'/proc/{launcher.pid}/task').glob('*/children'):
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
      found += map(int, thread.read_text().split())
  return found


def _wait(until, process, seconds=100):
  end = time.monotonic() + seconds
  while not until():
    assert process.poll() is None, process.communicate()
    assert time.monotonic() < end, 'It takes too long.'
    time.sleep(0.02)


def _logged(folder):
  logs = folder.glob('trials/*/metrics.jsonl')
  return sum(log.stat().st_size for log in logs)


def _first_rows(folder):
  """Of the trials that have a checkpoint; the rows tell the time."""
  logs = {log: log.read_text().splitlines(keepends=True)
          for log in folder.glob('trials/*/metrics.jsonl')}
  return {log: lines[0] for log, lines in logs.items() if len(lines) > 2}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='It looks into /proc.')
def test_killed_at_random_it_equals_an_undisturbed_sweep(start, tmp_path):
  calm, wild, rng = tmp_path / 'calm', tmp_path / 'wild', random.Random(0)
  whole = start(calm)
  _, said = whole.communicate(timeout=200)
  assert whole.returncode == 0, said
  launcher = start(wild)
  for victim in ('worker', 'launcher', 'worker', 'nobody', 'worker'):
    before = _logged(wild)
    _wait(lambda before=before: _logged(wild) > before and _first_rows(wild),
          launcher)
    time.sleep(rng.uniform(0, 0.3))
    if victim == 'launcher':
      launcher.kill()
      launcher.communicate()
      kept = _first_rows(wild)
      launcher = start(wild)
    elif victim == 'nobody':
      second = start(wild)
      _, said = second.communicate(timeout=60)
      assert second.returncode == 1 and 'Another launcher' in said
    else:
      os.kill(rng.choice(_workers(launcher)), signal.SIGKILL)
  _, said = launcher.communicate(timeout=200)
  assert launcher.returncode == 0, said
  expected = {row['trial']: row for row in rows(calm)}
  assert sorted(row['trial'] for row in rows(wild)) == sorted(expected)
  assert kept.items() <= _first_rows(wild).items()  # it went on from there
  for row in rows(wild):
    assert _timeless(row) == _timeless(expected[row['trial']])
    clips = [np.load(outcomes.home(folder, row['trial']) / 'recovered.npz')
             for folder in (calm, wild)]
    np.testing.assert_array_equal(clips[0]['clips'], clips[1]['clips'])


def _timeless(row):
  return {k: v for k, v in row.items() if k not in TIMINGS}


@pytest.mark.slow
def test_a_full_disk_stops_it_and_with_space_it_goes_on(start, small_disk):
  folder = small_disk / 'sweep'
  launcher = start(folder, '--config.attack.num_steps=100')
  _, said = launcher.communicate(timeout=100)
  assert launcher.returncode == 1
  assert 'disk is full' in said and 'same command' in said
  assert 'Traceback' not in said
  subprocess.run(['mount', '-o', 'remount,size=64m', str(small_disk)],
                 check=True)
  launcher = start(folder, '--config.attack.num_steps=100')
  _, said = launcher.communicate(timeout=100)
  assert launcher.returncode == 0, said
  assert [row['status'] for row in rows(folder)] == ['done'] * 4


@pytest.fixture
def engine(tmp_path, monkeypatch):
  """Makes a local engine of one worker that runs some Python lines."""
  def make(lines):
    command = [sys.executable, '-c', f'import os, sys, time\n{lines}']
    slot = slots.WorkerSlot(command, {}, tmp_path / 'logs' / 'worker.log')
    monkeypatch.setattr(slots, 'arrange', lambda *_: [slot])
    return local.Local(tmp_path, 'token')
  return make


def _finish(engine):
  with engine:
    engine.submit([Group('g', ('a', 'b'))])
    end = time.monotonic() + 30
    while time.monotonic() < end:
      if found := engine.poll(0.1):
        return found[0]
  pytest.fail('Nothing finished.')


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='It looks into /proc.')
def test_sigterm_ends_launcher_and_workers_with_what_they_did(start, tmp_path):
  launcher = start(tmp_path)
  _wait(lambda: len(_first_rows(tmp_path)) == 4, launcher, 200)
  workers = _workers(launcher)
  launcher.send_signal(signal.SIGTERM)
  _, said = launcher.communicate(timeout=60)
  assert launcher.returncode == 143
  assert 'goes on from the last checkpoint' in said
  assert 'Traceback' not in said
  assert workers and not any(Path(f'/proc/{pid}').exists() for pid in workers)
  for group in (tmp_path / 'groups').glob('*/checkpoints'):
    newest = max(int(step.name) for step in group.glob('[0-9]*'))
    members = json.loads(
        (tmp_path / 'groups' / f'{group.parent.name}.json').read_text())
    for name in members:
      log = outcomes.home(tmp_path, name) / 'metrics.jsonl'
      # Its row is there, and at most the row of the chunk that was cut off.
      assert [row['step'] for row in read_rows(log)][-2:].count(newest) == 1


def test_a_worker_that_is_told_to_go_saves_first(engine, tmp_path):
  """Another one takes its group over."""
  found = _finish(engine(
      f'mark = {str(tmp_path / "mark")!r}\n'
      'sys.stdin.readline()\n'
      'if not os.path.exists(mark):\n'
      '  open(mark, "w").close()\n'
      '  os._exit(143)\n'
      'print("\\"\\"")'))
  assert found.lost == ''


def test_a_worker_that_does_not_hear_is_killed(tmp_path):
  slot = slots.WorkerSlot(
      [sys.executable, '-c', 'import signal, time; input(); '
       'signal.signal(signal.SIGTERM, signal.SIG_IGN); print(0, flush=True); '
       'time.sleep(100)'], {}, tmp_path / 'logs' / 'worker.log')
  slot.ask('g')
  began = time.monotonic()
  slot.leave()
  slot.wait(0.2)
  assert time.monotonic() - began < 20


def test_workers_find_the_package():
  first = slots.importable()['PYTHONPATH'].split(os.pathsep)[0]
  assert (Path(first) / 'vidleak_jax' / '__init__.py').exists()


def test_a_worker_answers(engine):
  found = _finish(engine('print("\\"" + sys.stdin.readline().strip() + "\\"")'))
  assert (found.group.name, found.disk_full, found.lost) == ('g', 'g', '')


def test_a_worker_has_its_cores_only(tmp_path):
  slot = slots.WorkerSlot(
      [sys.executable, '-c', 'import os; input(); '
       'print("\\"", len(os.sched_getaffinity(0)), "\\"")'], {},
      tmp_path / 'logs' / 'worker.log', [min(os.sched_getaffinity(0))])
  assert slot.ask('g') == (' 1 ', None)
  slot.leave()


def test_a_group_that_crashes_its_worker_is_given_up(engine, tmp_path):
  found = _finish(engine(
      'sys.stderr.write("x\\n"); sys.stdin.readline(); os.abort()'))
  assert 'died of SIGABRT, 5 times' in found.lost
  log = tmp_path / 'logs' / 'worker.log'
  assert str(log) in found.lost and log.read_text().count('x') == 5


def test_a_group_that_gets_on_is_not_given_up(engine, tmp_path):
  home = outcomes.home(tmp_path, 'a')
  home.mkdir(parents=True)
  found = _finish(engine(
      f'n = len(os.listdir({str(home)!r}))\n'
      f'open({str(home)!r} + f"/{{n}}", "w").close()\n'
      'sys.stdin.readline()\n'
      'if n < 12: os.abort()\n'
      'print("\\"\\"")'))
  assert found.lost == ''
  assert len(os.listdir(home)) == 13


def test_killing_workers_fails_no_trial(engine, tmp_path):
  counter = tmp_path / 'counter'
  counter.mkdir()
  found = _finish(engine(
      f'n = len(os.listdir({str(counter)!r}))\n'
      f'open({str(counter)!r} + f"/{{n}}", "w").close()\n'
      'sys.stdin.readline()\n'
      'if n < 12: os.kill(os.getpid(), 9)\n'
      'print("\\"\\"")'))
  assert found.lost == ''


def test_killed_for_lack_of_memory_it_is_given_up(engine, monkeypatch):
  kills = iter(range(100))
  monkeypatch.setattr(local, '_memory_kills', lambda: next(kills))
  found = _finish(engine('sys.stdin.readline(); os.kill(os.getpid(), 9)'))
  assert 'lack of memory' in found.lost


@pytest.mark.parametrize('cores, workers, shares', [
    ([0, 1], 2, [[0], [1]]),
    ([0, 1, 2, 3], 2, [[0, 1], [2, 3]]),
    ([0, 1, 2, 3, 4], 2, [[0, 1], [2, 3]]),  # equal, so that results are
    ([0, 1], 3, [[0], [1], [0]]),
])
def test_shares_of_cores(cores, workers, shares, monkeypatch, tmp_path):
  monkeypatch.setattr(slots, '_gpus', list)
  monkeypatch.setattr(slots.host, 'available_cores', lambda: cores)
  monkeypatch.setattr(slots, 'find_spec', lambda _: None)
  found = slots.arrange(tmp_path, 'token', workers)
  assert [slot.cores for slot in found] == shares
  assert all(slot.env['XLA_FLAGS'].endswith(f'count={len(shares[0])}')
             for slot in found)


def test_shares_of_gpus(monkeypatch, tmp_path):
  monkeypatch.setattr(slots, '_gpus', lambda: ['0', '1'])
  found = slots.arrange(tmp_path, 'token', 0)
  assert [slot.env['CUDA_VISIBLE_DEVICES'] for slot in found] == ['0', '1']
  found = slots.arrange(tmp_path, 'token', 3)
  assert [slot.env['CUDA_VISIBLE_DEVICES'] for slot in found] == list('010')
  assert found[0].env['XLA_PYTHON_CLIENT_MEM_FRACTION'] == '0.450'


def test_a_launcher_starts_no_accelerator(tmp_path):
  """It would take the workers' memory, or their TPUs."""
  code = ('import sys; from pathlib import Path;'
          'from jax._src import xla_bridge;'
          'from vidleak_jax.recipes.sweeps import tiny;'
          'from vidleak_jax.experiments.sweep import groups, runner, spaces;'
          'trials = spaces.trials(tiny.get_config().to_dict());'
          f'groups.plan(Path({str(tmp_path)!r}), trials, size=9, workers=2);'
          'sys.exit(xla_bridge.backends_are_initialized())')
  assert subprocess.run([sys.executable, '-c', code], cwd=ROOT,
                        check=False).returncode == 0
