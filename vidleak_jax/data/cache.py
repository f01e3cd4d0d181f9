"""Where TFDS keeps what it prepared, and how it is prepared once."""

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from absl import logging

from vidleak_jax import types


def folder(data_dir: str | os.PathLike | None) -> Path:
  """`data_dir`, or a folder in the user's cache folder."""
  if data_dir:
    return Path(data_dir).expanduser()
  home = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
  return Path(home).expanduser() / 'vidleak_jax' / 'tfds'


def prepared(make: Callable[[Path], Any],
             data_dir: str | os.PathLike | None) -> Any:
  """The TFDS builder `make(folder)`, its records written if they are not yet.

  Safe when several processes start at once: each writes to a folder of its
  own, and the first to finish wins.
  """
  root = folder(data_dir)
  with _quiet():
    builder = make(root)
  if builder.data_path.exists():
    return builder
  logging.info('Preparing %s in %s.', builder.name, builder.data_path)
  with _quiet():
    try:
      builder.download_and_prepare()
    except OSError:
      if not builder.data_path.exists():
        raise
    return make(root)


def known_split(builder: Any, split: str) -> str:
  """`split` as TFDS spells it; `all` joins the splits of the set.

  Raises:
    UserError: if the set has no such split.
  """
  names = list(builder.info.splits)
  if split == 'all':
    return '+'.join(names)
  if split in names:
    return split
  raise types.UserError(
      f'{builder.name} has no split {split!r} here. Choose one of: '
      f'{", ".join([*names, "all"])}.')


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """TFDS warns of each config of ours, and prints that it is downloading."""
  import tensorflow_datasets as tfds
  if not sys.stderr.isatty():
    tfds.disable_progress_bar()  # it would fill log files
  level = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      yield
  finally:
    logging.set_verbosity(level)
