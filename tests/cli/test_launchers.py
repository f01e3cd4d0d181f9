"""The command line as a user meets it: real processes, real signals."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
TINY = ['--config=configs/default.py', '--config.data.num_frames=4',
        '--config.data.image_size=16', '--config.victim.preset=tiny',
        '--config.backend.num_devices=1']


def _start(*args):
  env = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'}
  env['PYTHONPATH'] = str(ROOT)
  # A suite in the background (`make test &`) is deaf to Ctrl-C, and a process
  # would inherit that.
  signal.signal(signal.SIGINT, signal.default_int_handler)
  return subprocess.Popen(
      [sys.executable, 'launch/attack.py', *map(str, args)], cwd=ROOT, env=env,
      stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _run(*args):
  process = _start(*args)
  out, err = process.communicate(timeout=300)
  return process.returncode, out, err


def _num_rows(folder):
  log = folder / 'metrics.jsonl'
  return len(log.read_text().splitlines()) if log.exists() else 0


def _wait_for_rows(folder, count, process):
  deadline = time.monotonic() + 200
  while time.monotonic() < deadline:
    assert process.poll() is None, process.communicate()[1]
    if _num_rows(folder) >= count:
      return
    time.sleep(0.01)
  pytest.fail('The run wrote no rows.')


@pytest.mark.parametrize('args, said', [
    (['--config.atack.name=ig'], 'Did you mean "attack"'),
    (['--config.data.nme=x'], 'Did you mean "name"'),
    (['--config.seed=abc'], 'seed'),
    (['--confg=x'], 'config'),
    (['--leak=/no/such.safetensors'], 'No leak at /no/such.safetensors'),
])
def test_a_mistake_is_one_message_without_traceback(args, said, tmp_path):
  code, _, err = _run(*TINY, f'--workdir={tmp_path}', *args)
  assert code == 1
  assert said in err
  assert 'Traceback' not in err
  assert not (tmp_path / 'result.json').exists()


def test_killed_and_interrupted_then_bit_equal(tmp_path):
  """SIGKILL, then Ctrl-C, then the end: as if nothing had happened."""
  args = [*TINY, '--config.attack.num_steps=4000',
          '--config.attack.chunk_steps=50']
  code, out, err = _run(*args, f'--workdir={tmp_path / "whole"}')
  assert code == 0, err
  assert 'recovery' in out and 'unrelated clip' in out and 'report' in out
  folder = tmp_path / 'cut'
  for kill in (signal.SIGKILL, signal.SIGINT):
    done = _num_rows(folder)
    process = _start(*args, f'--workdir={folder}')
    _wait_for_rows(folder, done + 3, process)
    process.send_signal(kill)
    _, err = process.communicate(timeout=100)
    assert process.returncode == (-9 if kill == signal.SIGKILL else 130)
    assert not (folder / 'result.json').exists()
  assert 'goes on from the last checkpoint' in err
  code, _, err = _run(*args, f'--workdir={folder}')
  assert code == 0, err
  for name in ('clips', 'labels'):
    with np.load(tmp_path / 'whole' / 'recovered.npz') as whole, np.load(
        folder / 'recovered.npz') as cut:
      np.testing.assert_array_equal(cut[name], whole[name])
  steps = [json.loads(line)['step'] for line
           in (folder / 'metrics.jsonl').read_text().splitlines()]
  assert steps == list(range(50, 4001, 50))


def test_a_second_launcher_in_the_same_workdir_leaves(tmp_path):
  args = [*TINY, '--config.attack.num_steps=100000', f'--workdir={tmp_path}']
  first = _start(*args)
  try:
    _wait_for_rows(tmp_path, 1, first)
    code, _, err = _run(*args)
  finally:
    first.kill()
    first.communicate()
  assert code == 1
  assert 'Another run is at work' in err


@pytest.mark.parametrize('filled', [1_200_000, 1_700_000, 2**21])
def test_a_full_disk_is_told_and_the_run_goes_on_after_it(small_disk, filled):
  args = [*TINY, '--config.attack.num_steps=40',
          '--config.attack.chunk_steps=20', f'--workdir={small_disk / "run"}']
  filler = small_disk / 'filler'
  filler.write_bytes(bytes(filled))
  code, _, err = _run(*args)
  assert code == 1
  assert 'disk is full' in err and 'Traceback' not in err
  filler.unlink()
  subprocess.run(['mount', '-o', 'remount,size=64m', str(small_disk)],
                 check=True)
  code, _, err = _run(*args)
  assert code == 0, err
