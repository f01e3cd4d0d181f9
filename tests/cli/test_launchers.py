"""The command line as a user meets it: real processes, real signals."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.helpers import ROOT

TINY = ['--config=configs/default.py', '--config.attack.name=ig',
        '--config.data.num_frames=4',
        '--config.data.image_size=16', '--config.victim.preset=tiny',
        '--config.backend.num_devices=1']


pytestmark = [pytest.mark.process, pytest.mark.slow]


@pytest.fixture(autouse=True)
def hearing_ctrl_c():
  """A suite in the background (`make test &`) is deaf to Ctrl-C, and the
  processes that it starts would inherit that."""
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield
  signal.signal(signal.SIGINT, before)


def _start(*args, script='attack'):
  env = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'}
  env['PYTHONPATH'] = str(ROOT)
  return subprocess.Popen(
      [sys.executable, f'launch/{script}.py', *map(str, args)], cwd=ROOT,
      env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _run(*args, script='attack'):
  process = _start(*args, script=script)
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
    (['--config.attack.num_restart=3'], 'Did you mean "num_restarts"'),
    (['--config=/no/such.py'], 'No config file /no/such.py'),
    (['--config.attack.num_restarts=100000'], 'would fit: set attack.num_re'),
    (['--leak=/no/such.safetensors'], 'No leak at /no/such.safetensors'),
])
def test_a_mistake_is_one_message_without_traceback(args, said, tmp_path):
  code, _, err = _run(*TINY, f'--workdir={tmp_path}', *args)
  assert code == 1
  assert said in err
  assert 'Traceback' not in err
  assert len(err.splitlines()) == 1
  assert not (tmp_path / 'result.json').exists()


@pytest.mark.parametrize('content, said', [
    ('def get_config():\n  return {}.nothing_here', 'nothing_here'),
    ('def get_config():\n  return {"a": 1}["b"]', "KeyError: 'b'"),
    ('def get_config():\n  return len(3)', 'TypeError: object of type'),
    ('def get_config(:', 'SyntaxError'),
    ('import no_such_module', "No module named 'no_such_module'")])
def test_a_fault_of_the_config_file_is_told_as_its_own(content, said, tmp_path):
  file = tmp_path / 'mine.py'
  file.write_text(content)
  code, _, err = _run(f'--config={file}', f'--workdir={tmp_path / "run"}')
  assert code == 1
  assert err.startswith(f'error: {file} cannot be loaded:')
  assert said in err and 'line ' in err and 'config_flags' not in err


@pytest.mark.parametrize('script, recipe, line, near', [
    ('attack', 'default', 'attack.num_restart = 4', 'num_restarts'),
    ('attack', 'default', 'attack.ig.priors.spatial_vt = 1.0', 'spatial_tv'),
    ('attack', 'default', 'atack = {}', 'attack'),
    ('paper', 'paper.lenet_ours', 'data.num_frame = 1', 'num_frames'),
    ('sweep', 'sweeps.tiny', 'attack.num_restart = 4', 'num_restarts'),
    ('train_victim', 'train_c3d', 'num_step = 4', 'num_steps'),
    ('train_superres', 'train_superres', 'stage1.num_step = 4', 'num_steps'),
    ('train_blend', 'train_blend', 'num_scene = 4', 'num_scenes'),
])
def test_a_typo_inside_a_config_file_is_told_with_the_nearest_name(
    script, recipe, line, near, tmp_path):
  file, folder = tmp_path / 'mine.py', tmp_path / 'run'
  file.write_text(f'''
from vidleak_jax import recipes

def get_config():
  config = recipes.load({recipe.replace('.', '/')!r})
  config.{line}
  return config
''')
  code, _, err = _run(f'--config={file}', f'--workdir={folder}', script=script)
  assert code == 1
  assert err.startswith('error: ') and len(err.splitlines()) == 1
  assert f"Did you mean '{near}'" in err
  assert not (folder / 'leak.json').exists()
  assert not (folder / 'trials').exists()


def test_killed_and_interrupted_then_bit_equal(tmp_path):
  """SIGKILL, SIGTERM, Ctrl-C, then the end: as if nothing had happened."""
  args = [*TINY, '--config.attack.num_steps=4000',
          '--config.attack.chunk_steps=50']
  code, out, err = _run(*args, f'--workdir={tmp_path / "whole"}')
  assert code == 0, err
  assert 'recovery' in out and 'unrelated clip' in out and 'report' in out
  folder = tmp_path / 'cut'
  for kill, code in ((signal.SIGKILL, -9), (signal.SIGTERM, 143),
                     (signal.SIGINT, 130)):
    done = _num_rows(folder)
    process = _start(*args, f'--workdir={folder}')
    _wait_for_rows(folder, done + 3, process)
    process.send_signal(kill)
    _, err = process.communicate(timeout=100)
    assert process.returncode == code
    assert not (folder / 'result.json').exists()
    if kill != signal.SIGKILL:
      assert 'goes on from the last checkpoint' in err
      assert 'Traceback' not in err
      newest = max(int(step.name) for step
                   in (folder / 'checkpoints').glob('[0-9]*'))
      assert newest == 50 * _num_rows(folder)  # the last chunk's is complete
  code, _, err = _run(*args, f'--workdir={folder}')
  assert code == 0, err
  for name in ('clips', 'labels'):
    with np.load(tmp_path / 'whole' / 'recovered.npz') as whole, np.load(
        folder / 'recovered.npz') as cut:
      np.testing.assert_array_equal(cut[name], whole[name])
  steps = [json.loads(line)['step'] for line
           in (folder / 'metrics.jsonl').read_text().splitlines()]
  assert steps == list(range(50, 4001, 50))


def test_all_files_of_a_run_are_its_owners(tmp_path):
  code, _, err = _run(*TINY, '--config.attack.num_steps=20', '--tensorboard',
                      f'--workdir={tmp_path / "run"}')
  assert code == 0, err
  for path in ((tmp_path / 'run'), *(tmp_path / 'run').rglob('*')):
    wanted = 0o700 if path.is_dir() else 0o600
    assert path.stat().st_mode & 0o777 == wanted, path


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
