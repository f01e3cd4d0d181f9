"""One run's folder: whose it is, what it was asked, what it answers.

File locks make the package one for POSIX systems: Linux and macOS.
"""

import fcntl
import json
import subprocess
import sys
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from vidleak_jax import files
from vidleak_jax.types import Row, UserError


@contextmanager
def claim(workdir: Path, config: Row, facts: Row):
  """Holds a workdir for one run of one config.

  Writes `config.json` the first time; later runs must ask the same.

  Args:
    workdir: made where it is missing, for its owner alone (mode 0700).
    config: resolved, JSON-able.
    facts: recorded beside it, such as the device kind; they may change.

  Raises:
    UserError: when another process works there, or another config did.
  """
  config = json.loads(json.dumps(config))  # as it will be read: tuples as lists
  files.make_folder(workdir)
  with files.open_private(workdir / '.lock', 'w') as lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
      raise UserError(f'Another run is at work in {workdir}. Wait for it, or '
                      'choose another --workdir.') from error
    file = workdir / 'config.json'
    if file.exists():
      _compare(file, json.loads(file.read_text())['config'], config)
    else:
      files.write_json(file, {'config': config, **versions(), **facts})
    yield


def versions() -> Row:
  """Returns what numbers depend on: libraries, git commit, the command.

  The commit is None where the package is not part of a repository: one that
  just lies around site-packages says nothing about it.
  """
  libraries = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')
  return {
      'versions': {'python': sys.version.split()[0],
                   **{name: version(name) for name in libraries}},
      'git_commit': _commit(Path(__file__)),
      'command': ['python', *sys.argv],
  }


def _commit(file) -> str | None:
  """The commit of the repository that tracks a file."""
  def git(*args):
    return subprocess.run(['git', '-C', str(file.parent), *args], check=False,
                          capture_output=True, text=True)
  try:
    if git('ls-files', '--error-unmatch', file.name).returncode:
      return None
    return git('rev-parse', 'HEAD').stdout.strip() or None
  except FileNotFoundError:  # no git here
    return None


def _compare(file, old, new):
  changed = sorted(_differences('', old, new))
  if changed:
    raise UserError(
        f'{file.parent} belongs to a run of another config: '
        f'{"; ".join(changed[:5])}{" ..." if len(changed) > 5 else ""}. '
        'Choose another --workdir, or run it with the config it had.')


def _differences(prefix, old, new):
  for key in old.keys() | new.keys():
    name, a, b = f'{prefix}{key}', old.get(key), new.get(key)
    if isinstance(a, dict) and isinstance(b, dict):
      yield from _differences(f'{name}.', a, b)
    elif a != b:
      yield f'{name} was {a!r}, now {b!r}'
