"""Who may write: one launcher a workdir, one worker a group.

File locks end with the process that holds them, so nobody needs to clean up
after SIGKILL. They need a POSIX system (Linux, macOS) and a file system that
has them, as local disks and NFS.
"""

import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vidleak_jax import files
from vidleak_jax.types import UserError


class Superseded(Exception):
  """The launcher that gave a worker its group is gone; another one rules."""


@contextmanager
def sole_launcher(folder: Path) -> Iterator[str]:
  """Holds a workdir for one launcher.

  Yields:
    Its token: workers that were given another one leave their groups alone.

  Raises:
    UserError: when another launcher is at work there.
  """
  files.make_folder(folder)
  with files.open_private(folder / '.launcher', 'a+') as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
      file.seek(0)
      raise UserError(
          f'Another launcher is at work in {folder} ({_owner(file.read())}). '
          'Wait for it, or choose another --workdir.') from error
    token = f'{socket.gethostname()} {os.getpid()} {os.urandom(8).hex()}'
    file.truncate(0)
    file.write(token)
    file.flush()
    yield token


def wait_for_workers(folder: Path, log_fn: Callable[[str], None]) -> None:
  """Returns once no worker of an earlier launcher is at work.

  Call it as the sole launcher: groups that such workers begin later, they
  leave alone.
  """
  for path in sorted((folder / 'groups').glob('*.lock')):
    if is_at_work(folder, path.stem):
      log_fn('Workers of an earlier launcher are still at work here; waiting '
             'for them to leave.')
    with files.open_private(path, 'a') as file:
      fcntl.flock(file, fcntl.LOCK_EX)


@contextmanager
def sole_worker(folder: Path, group: str, token: str) -> Iterator[None]:
  """Holds a group for one worker; waits for an earlier one to be gone.

  Raises:
    Superseded: when `token` is not the present launcher's.
  """
  with _open_lock(folder, group) as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    if (folder / '.launcher').read_text() != token:
      raise Superseded(f'{folder} has a newer launcher.')
    yield


def is_at_work(folder: Path, group: str) -> bool:
  """Whether a worker holds a group just now."""
  with _open_lock(folder, group) as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
      return True
  return False


def _open_lock(folder, group):
  return files.open_private(folder / 'groups' / f'{group}.lock', 'a')


def _owner(token):
  host, pid = [*token.split(), 'unknown', 'unknown'][:2]
  return f'process {pid} on {host}'
