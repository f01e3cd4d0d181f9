"""Files are whole or absent: written under a temporary name, then renamed."""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
  """Yields a temporary path beside `path`, renamed to it when all went well.

  The temporary name keeps the suffix, by which many writers choose a format.
  """
  path = Path(path)
  partial = path.with_name(f'.{os.getpid()}.{path.name}')
  try:
    yield partial
    os.replace(partial, path)
  finally:
    partial.unlink(missing_ok=True)


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


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
  """An .npz; arrays that are None are left out."""
  with replacing(path) as partial:
    given = {k: v for k, v in arrays.items() if v is not None}
    np.savez(partial, **given)  # type: ignore[arg-type]  # allow_pickle's
