"""Files are whole or absent, and private: what leaks is someone's video.

They are written under a temporary name, then renamed; only their owner may read
them, or enter the folders that are made here.
"""

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

FILE_MODE, FOLDER_MODE = 0o600, 0o700


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
  """Yields a temporary path beside `path`, renamed to it when all went well.

  An empty file of mode 0600 stands there, so that nobody can read along. The
  temporary name keeps the suffix, by which many writers choose a format.
  """
  path = Path(path)
  partial = path.with_name(f'.{os.getpid()}.{path.name}')
  try:
    os.close(os.open(partial, os.O_CREAT | os.O_WRONLY, FILE_MODE))
    yield partial
    partial.chmod(FILE_MODE)  # of a writer that made a file of its own
    os.replace(partial, path)
  finally:
    partial.unlink(missing_ok=True)


def open_private(path: str | os.PathLike, mode: str, **options: Any) -> IO:
  """Opens a file as `open` does; a new one only its owner may read."""
  return open(path, mode, **options, opener=lambda name, flags: os.open(
      name, flags, FILE_MODE))


def make_folder(path: Path) -> Path:
  """Makes a folder, which only its owner may enter, where it is missing.

  The mode of one that exists is left as it is, and that of folders above it is
  the system's default.
  """
  path.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
  return path


def make_private(folder: Path) -> None:
  """Takes the rights of others away from a folder and all that is in it.

  For what libraries write by themselves. Files that vanish meanwhile are left
  out.
  """
  for top, folders, names in os.walk(folder):
    modes = dict.fromkeys(names, FILE_MODE) | dict.fromkeys(
        folders, FOLDER_MODE)
    for name, mode in modes.items():
      with contextlib.suppress(FileNotFoundError):
        os.chmod(os.path.join(top, name), mode)


def disk_is_full(error: BaseException | None) -> bool:
  """Whether a full disk lies behind an error."""
  while error is not None:
    if getattr(error, 'errno', None) in (errno.ENOSPC, errno.EDQUOT):
      return True
    if 'No space left on device' in str(error):
      return True
    error = error.__cause__ or error.__context__
  return False


def write_json(path: Path, content: Any) -> None:
  """Indented JSON; NaN and infinity are refused."""
  with replacing(path) as partial:
    partial.write_text(json.dumps(content, indent=2, allow_nan=False) + '\n')


def write_arrays(path: Path, **arrays: np.ndarray | None) -> None:
  """An .npz; arrays that are None are left out."""
  with replacing(path) as partial:
    given = {k: v for k, v in arrays.items() if v is not None}
    np.savez(partial, **given)  # type: ignore[arg-type]  # allow_pickle's
