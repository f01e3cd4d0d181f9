"""The wheel, built and installed as a user does, run from another folder."""

import json
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from vidleak_jax import recipes

ROOT = Path(__file__).parents[2]
SOURCES = ('vidleak_jax', 'setup.py', 'pyproject.toml', 'MANIFEST.in',
           'README.md', 'LICENSE')
HEAVY = {'av', 'matplotlib', 'skimage', 'tensorflow_datasets', 'torch'}

pytestmark = [pytest.mark.process, pytest.mark.slow]


def _call(*command, cwd):
  env = {name: value for name, value in os.environ.items()
         if name not in ('PYTHONPATH', 'XLA_FLAGS')}
  done = subprocess.run([*map(str, command)], cwd=cwd, env=env, text=True,
                        capture_output=True, check=False, timeout=300)
  assert done.returncode == 0, done.stderr
  return done.stdout


@pytest.fixture(scope='module')
def installed(tmp_path_factory):
  """The folder of a fresh environment's programs.

  It sees the libraries of this one, so nothing is downloaded.
  """
  setuptools = pytest.importorskip('setuptools', minversion='77')
  assert setuptools
  pytest.importorskip('pip')
  folder = tmp_path_factory.mktemp('wheel')
  source = folder / 'source'
  source.mkdir()
  for name in SOURCES:
    copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
    copy(ROOT / name, source / name)
  pip = [sys.executable, '-m', 'pip', '--quiet', '--no-input',
         '--disable-pip-version-check']
  _call(*pip, 'wheel', '--no-deps', '--no-build-isolation', '--wheel-dir',
        folder, source, cwd=folder)
  [wheel] = folder.glob('*.whl')
  home = folder / 'home'
  venv.create(home, symlinks=True)
  python = home / 'bin' / 'python'
  [own] = home.glob('lib/python*/site-packages')
  (own / 'libraries.pth').write_text('\n'.join(
      path for path in sys.path if path.endswith('-packages')) + '\n')
  _call(*pip, '--python', python, 'install', '--no-deps', '--no-index', wheel,
        cwd=folder)
  return python.parent


def test_it_is_not_this_folder(installed, tmp_path):
  where = _call(installed / 'python', '-c',
                'import vidleak_jax; print(vidleak_jax.__file__)', cwd=tmp_path)
  assert Path(where.strip()).is_relative_to(installed.parent)


def test_the_command_lists_programs_and_recipes(installed, tmp_path):
  assert 'vidleak attack' in _call(installed / 'vidleak', '--help',
                                   cwd=tmp_path)
  rows = _call(installed / 'vidleak', 'list', 'configs',
               cwd=tmp_path).splitlines()
  assert {row.split()[0] for row in rows} == set(recipes.names())


def test_it_says_one_version(installed, tmp_path):
  said = _call(installed / 'vidleak', '--version', cwd=tmp_path).split()[-1]
  assert re.fullmatch(r'\d+\.\d+\.\d+', said)
  assert said == _call(
      installed / 'python', '-c', 'import vidleak_jax; '
      'print(vidleak_jax.__version__)', cwd=tmp_path).strip()


def test_an_attack_runs_from_another_folder(installed, tmp_path):
  _call(installed / 'vidleak', 'attack', '--config=clip_c3d:tiny',
        '--config.data.name=photo_motion', '--config.data.split=test',
        '--config.attack.num_steps=2', '--workdir=run', cwd=tmp_path)
  result = json.loads((tmp_path / 'run' / 'result.json').read_text())
  assert result['num_steps'] == 2
  assert (tmp_path / 'run' / 'report.html').exists()


def test_import_loads_nothing_that_is_slow_or_optional(installed, tmp_path):
  loaded = _call(installed / 'python', '-c',
                 'import sys, vidleak_jax; print(*sys.modules)', cwd=tmp_path)
  assert not HEAVY & set(loaded.split())


def test_all_files_of_the_package_are_in_it(installed, tmp_path):
  there = Path(_call(
      installed / 'python', '-c', 'import vidleak_jax; '
      'print(vidleak_jax.__path__[0])', cwd=tmp_path).strip())
  missing = [file for file in (ROOT / 'vidleak_jax').rglob('*')
             if file.is_file() and '__pycache__' not in file.parts
             and not (there / file.relative_to(ROOT / 'vidleak_jax')).exists()]
  assert not missing
