"""Several processes, as on several hosts, share one run."""

import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.helpers import ROOT

pytestmark = [pytest.mark.process, pytest.mark.slow]

TINY = ['--config.victim.preset=tiny', '--config.data.image_size=16',
        '--config.data.num_frames=4', '--config.data.original_size=32',
        '--config.attack.num_steps=30', '--config.attack.chunk_steps=5',
        '--config.attack.num_restarts=3', '--config.attack.name=ig']


def start(workdir, *options):
  """One process; its cores are one device each."""
  return subprocess.Popen(
      [sys.executable, 'launch/attack.py', '--config=configs/default.py',
       f'--workdir={workdir}', *TINY, *options], cwd=ROOT, text=True,
      env={**os.environ, 'XLA_FLAGS': ''},
      stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def start_two(workdir, *options):
  with socket.socket() as free:
    free.bind(('localhost', 0))
    address = f'localhost:{free.getsockname()[1]}'
  return [start(workdir, f'--coordinator_address={address}',
                '--num_processes=2', f'--process_id={i}', *options)
          for i in range(2)]


def ended(process):
  return process.communicate(timeout=120)[0], process.returncode


def recovered(workdir):
  with np.load(workdir / 'recovered.npz') as saved:
    return saved['clips']


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
  """What one process recovers."""
  folder = tmp_path_factory.mktemp('alone')
  text, code = ended(start(folder))
  assert code == 0, text
  return recovered(folder)


def test_two_processes_killed_midway_then_one(alone, tmp_path):
  """What two began, one ends; the answer is that of one all along."""
  pair = start_two(tmp_path / 'shared', '--config.attack.chunk_steps=1')
  steps = tmp_path / 'shared' / 'checkpoints'
  deadline = time.monotonic() + 100
  while not list(steps.glob('[0-9]*')) and time.monotonic() < deadline:
    time.sleep(0.01)
  for process in pair:
    process.send_signal(signal.SIGKILL)
    process.communicate()
  assert list(steps.glob('[0-9]*'))
  assert not (tmp_path / 'shared' / 'result.json').exists()
  again = start(tmp_path / 'shared', '--config.attack.chunk_steps=1')
  text, code = ended(again)
  assert code == 0, text
  np.testing.assert_allclose(recovered(tmp_path / 'shared'), alone, atol=1e-4)


def test_two_processes_agree_with_one(alone, tmp_path):
  texts, codes = zip(*map(ended, start_two(tmp_path / 'two')), strict=True)
  assert codes == (0, 0), texts
  assert 'report:' in texts[0] and 'report:' not in texts[1]
  np.testing.assert_allclose(recovered(tmp_path / 'two'), alone, atol=1e-4)


def test_a_mistake_ends_both(tmp_path):
  pair = start_two(tmp_path, '--config.data.name=video_folder',
                   '--config.data.dir=/no/such')
  (text, code), (other, _) = map(ended, pair)
  assert code == 1 and '/no/such' in text and 'Traceback' not in text + other


@pytest.mark.parametrize('flags, message', [
    (['--num_processes=2'], 'coordinator_address and --process_id'),
    (['--num_processes=2', '--process_id=2', '--coordinator_address=a:1'],
     'count from 0')])
def test_half_a_set_of_flags_is_told(flags, message, tmp_path):
  text, code = ended(start(tmp_path, *flags))
  assert code == 1 and message in text and 'Traceback' not in text
