"""Whose a run's folder is, and who may read it."""

import os
import subprocess

import numpy as np
import pytest

from vidleak_jax import files
from vidleak_jax.runtime import workdir
from vidleak_jax.runtime.run_logger import RunLogger

STATE = {'clips': np.zeros((2, 1000), np.float32)}


@pytest.fixture
def usual_umask():
  """What most systems give: everybody may read."""
  before = os.umask(0o022)
  yield
  os.umask(before)


def modes(folder):
  """Mode of each file and folder, by its path."""
  return {str(path.relative_to(folder.parent)): path.stat().st_mode & 0o777
          for path in (folder, *folder.rglob('*'))}


def assert_private(folder):
  for path, mode in modes(folder).items():
    wanted = 0o700 if (folder.parent / path).is_dir() else 0o600
    assert mode == wanted, f'{path} has mode {mode:o}'


def test_all_that_a_run_writes_is_its_owners(tmp_path, usual_umask):
  pytest.importorskip('tensorboardX')
  folder = tmp_path / 'runs' / 'mine'
  with workdir.claim(folder, {'seed': 0}, {}):
    with RunLogger(folder, [folder], tensorboard=True) as logger:
      logger.resume(STATE)
      logger.start(20, 0)
      for step in (10, 20):
        logger.write(step, STATE, 0.0, [{'best_loss': 1.0}])
    files.write_arrays(folder / 'recovered.npz', clips=STATE['clips'])
    files.write_json(folder / 'result.json', {})
  assert len(modes(folder)) > 10
  assert_private(folder)


def test_a_folder_that_exists_keeps_its_mode(tmp_path, usual_umask):
  """It may be anybody's, the system's folder for temporary files even."""
  tmp_path.chmod(0o755)
  with workdir.claim(tmp_path, {}, {}):
    pass
  assert tmp_path.stat().st_mode & 0o777 == 0o755
  assert (tmp_path / 'config.json').stat().st_mode & 0o777 == 0o600


def test_nobody_can_read_along(tmp_path, usual_umask):
  with files.replacing(tmp_path / 'a.txt') as partial:
    assert partial.stat().st_mode & 0o777 == 0o600
    partial.unlink()
    partial.write_text('a writer that makes its own file')
  assert (tmp_path / 'a.txt').stat().st_mode & 0o777 == 0o600
  with pytest.raises(ZeroDivisionError), files.replacing(tmp_path / 'b.txt'):
    raise ZeroDivisionError
  assert [p.name for p in tmp_path.iterdir()] == ['a.txt']


def test_only_a_repository_that_tracks_the_package_is_its_commit(tmp_path):
  """An installed package lies in somebody's repository, and is not of it."""
  def git(*args):
    return subprocess.run(
        ['git', '-C', str(tmp_path), '-c', 'user.name=a', '-c', 'user.email=b',
         *args], check=True, capture_output=True, text=True).stdout.strip()
  ours, installed = tmp_path / 'ours.py', tmp_path / 'installed.py'
  assert workdir._commit(ours) is None
  git('init')
  for file in (ours, installed):
    file.write_text('')
  git('add', 'ours.py')
  git('commit', '-m', 'first')
  assert workdir._commit(ours) == git('rev-parse', 'HEAD')
  assert workdir._commit(installed) is None
