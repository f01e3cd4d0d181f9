"""Tells how far long work has come: a live line, plain lines, metrics.jsonl."""

import json
import math
import os
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from time import monotonic

import numpy as np

from vidleak_jax import files
from vidleak_jax.types import UserError

_UNITS = {'auto': 'attacks'}  # of stages that count no steps


class Progress:
  """Steps, rate, time left and the latest values of long work.

  On a terminal one live line; elsewhere a plain line at the first update, at
  the last, and in between every 10 s, later every twentieth of the time spent.

  ```python
  with Progress(3000, 'attack', done=resumed_at) as progress:
    progress.update(done, loss=loss)
  ```

  Args:
    total: steps in all, those done in an earlier run included.
    what: the work's name, first on the line.
    done: steps already done when it starts; they do not count in the rate.
    unit: what is counted.
    stream: where the lines go; stderr by default.
  """

  def __init__(self, total: int, what: str = 'work', *, done: int = 0,
               unit: str = 'steps', stream=None):
    self._total, self._what, self._done = total, what, done
    self._unit = unit
    self._stream = stream or sys.stderr
    self._line = ''        # the latest line, where none was printed of it
    self._next_line = 0.0  # when the next plain line is due
    self._live = None

  def __enter__(self):
    # The first update holds the compilation: later ones are timed without it.
    self._start = self._timed_from = (monotonic(), self._done)
    if self._stream.isatty() and os.environ.get('TERM') != 'dumb':
      self._live = _live_line(self._stream, self._what, self._total, self._done)
    return self

  def update(self, done: int, **values):
    """Tells that `done` steps of all are done; `values` stand at the end.

    Args:
      done: steps done so far, those of an earlier run included.
      **values: numbers or words to show, such as `loss=0.012`.
    """
    now = monotonic()
    status = self._status(now, done, values)
    if self._timed_from is self._start:
      self._timed_from = (now, done)
    if self._live:
      self._live.update(self._live.task_ids[0], completed=done, status=status)
      return
    self._line = f'{self._what} {status}'
    if now >= self._next_line:
      self._print()
      spent = now - self._start[0]
      self._next_line = now + max(10.0, spent / 20)

  def __exit__(self, *_):
    if self._live:
      self._live.stop()
    elif self._line:
      self._print()

  def _print(self):
    print(self._line, file=self._stream, flush=True)
    self._line = ''

  def _status(self, now, done, values):
    since, before = self._timed_from
    parts = [f'{done}/{self._total} {self._unit}']
    if done > before and now > since:
      rate = (done - before) / (now - since)
      left = timedelta(seconds=round((self._total - done) / rate))
      pace = f'{rate:.3g}' if rate < 1000 else f'{rate:.0f}'
      parts += [f'{pace} {self._unit}/s', f'{left} left']
    parts += [f'{name.replace("_", " ")} {_short(value)}'
              for name, value in values.items()]
    return ', '.join(parts)


class Terminal:
  """A `session.Report` that shows each stage as a progress line.

  It is a context manager: the last line ends with it.

  Args:
    unit: what is counted.
    stream: where the lines go; stderr by default.
  """

  def __init__(self, unit: str = 'steps', stream=None):
    self._unit = unit
    self._stream, self._stage, self._progress = stream, None, None

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._end()

  def __call__(self, stage: str, done: int, total: int, **values) -> None:
    if (stage, total) != self._stage:
      self._end()
      self._stage = stage, total
      self._progress = Progress(
          total, stage, done=done, unit=_UNITS.get(stage, self._unit),
          stream=self._stream)
      self._progress.__enter__()
    if values or done:
      self._progress.update(done, **values)

  def _end(self):
    if self._progress:
      self._progress.__exit__()
    self._stage = self._progress = None


def _short(value):
  """Four digits of a number (also of a device's scalar); words as they are."""
  return value if isinstance(value, str) else f'{float(value):.4g}'


def _live_line(stream, what, total, done):
  from rich.console import Console
  from rich.progress import BarColumn, TextColumn
  from rich.progress import Progress as Live
  live = Live(TextColumn('{task.description}'), BarColumn(24),
              TextColumn('{task.fields[status]}', markup=False),
              console=Console(file=stream))
  live.add_task(what, total=total, completed=done, status='starting')
  live.start()
  return live


class MetricsLog:
  """Writes metrics.jsonl, a row per call; no row is ever torn but the last.

  Opening it drops a last line that a killed run left torn.

  Args:
    path: the file; rows are appended to what is there.
    tensorboard: also writes the scalars to `tensorboard/` beside the file.
  """

  def __init__(self, path: str | os.PathLike, *, tensorboard: bool = False):
    self._path = Path(path)
    self._board = _Board(self._path.parent / 'tensorboard', tensorboard)
    files.make_folder(self._path.parent)
    self.truncate_after(math.inf)

  def write(self, step: int, **values):
    """Appends one row; NaN and infinity become null.

    Args:
      step: steps done so far.
      **values: numbers, words, or arrays, lists and dicts of them.
    """
    row = {'step': int(step)} | _plain(values)
    line = json.dumps(row, allow_nan=False) + '\n'
    with files.open_private(self._path, 'ab', buffering=0) as file:
      file.write(line.encode())
    self._board.write(row)

  def truncate_after(self, step: float):
    """Drops the rows after `step`; the run resumed there writes them anew."""
    rows = read_rows(self._path)
    kept = [row for row in rows if row['step'] <= step]
    with files.replacing(self._path) as partial:
      partial.write_text(''.join(json.dumps(row) + '\n' for row in kept))
    if len(kept) < len(rows):
      self._board.restart(step + 1)

  def close(self):
    self._board.restart(None)

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()


def read_rows(path: str | os.PathLike) -> list[dict]:
  """The rows of a metrics.jsonl, without a torn last one; [] without a file.

  Raises:
    UserError: a line before the last is not JSON.
  """
  path = Path(path)
  lines = path.read_text(errors='replace').splitlines() if path.exists() else []
  rows = []
  for number, line in enumerate(lines, 1):
    try:
      rows.append(json.loads(line))
    except json.JSONDecodeError as error:
      if number == len(lines):
        break
      raise UserError(f'{path}, line {number} is not JSON: {line[:60]!r}. '
                      'Mend the line or start in a new workdir.') from error
  return rows


class _Board:
  """TensorBoard's copy of the scalars; opened by the first row."""

  def __init__(self, folder, wanted):
    self._folder, self._open = folder, wanted and _summary_writer()
    self._writer = self._purge_from = None

  def write(self, row):
    if not self._open:
      return
    if self._writer is None:
      files.make_folder(self._folder)
      self._writer = self._open(str(self._folder), purge_step=self._purge_from)
    for name, value in row.items():
      if name != 'step' and isinstance(value, int | float):
        self._writer.add_scalar(name, value, row['step'])
    self._writer.flush()

  def restart(self, purge_from):
    """Closes the file; the next one hides the steps from `purge_from` on."""
    if self._writer is not None:
      self._writer.close()
      files.make_private(self._folder)
    self._writer, self._purge_from = None, purge_from


def _summary_writer():
  try:
    from tensorboardX import SummaryWriter
  except ImportError as error:
    raise UserError('TensorBoard logs need tensorboardX: '
                    'pip install tensorboardX, or switch them off.') from error
  return SummaryWriter


def _plain(value):
  """What JSON can hold: arrays as lists, scalars as floats or ints."""
  if isinstance(value, Mapping):
    return {str(k): _plain(v) for k, v in value.items()}
  if isinstance(value, list | tuple):
    return [_plain(v) for v in value]
  if value is None or isinstance(value, str | bool | int):
    return value
  if isinstance(value, float):
    return value if math.isfinite(value) else None
  return _plain(np.asarray(value).tolist())
