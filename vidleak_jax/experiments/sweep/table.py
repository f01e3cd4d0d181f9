"""results.jsonl and results.parquet: a row a trial, one writer."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from vidleak_jax import files, optional
from vidleak_jax.experiments.sweep import outcomes
from vidleak_jax.experiments.sweep.spaces import Trial
from vidleak_jax.runtime import progress
from vidleak_jax.types import Row


class Table:
  """The rows of a workdir; only its launcher holds one.

  Opening it mends the file: a torn last row is dropped, each trial keeps one
  row, and none stays that the trial's folder does not bear out.
  """

  def __init__(self, folder: Path):
    self._folder, self._path = folder, folder / 'results.jsonl'
    found = progress.read_rows(self._path)
    self._rows = {
        row['trial']: row for row in found
        if outcomes.status(folder, row['trial']) == row['status']}
    if len(self._rows) < len(found) or not _whole(self._path):
      self._rewrite()

  def adopt(self, trials: Sequence[Trial]) -> None:
    """Brings the rows of trials up to what a sweep varies now, drops those of
    trials that are to run again, and adds what a killed launcher did not."""
    before = json.dumps(self._rows)
    for trial in trials:
      status = outcomes.status(self._folder, trial.name)
      if trial.name not in self._rows and status:
        self.add(trial)
      elif not status:
        self._rows.pop(trial.name, None)
      else:
        self._rows[trial.name] |= trial.fields
    if json.dumps(self._rows) != before:
      self._rewrite()

  def add(self, trial: Trial) -> Row:
    """Appends the row of a trial that has ended, once, and returns it."""
    if trial.name not in self._rows:
      row = outcomes.row(self._folder, trial)
      self._append(_line(row).encode())
      self._rows[trial.name] = row
    return self._rows[trial.name]

  def __contains__(self, name: str) -> bool:
    return name in self._rows

  def __getitem__(self, name: str) -> Row:
    return self._rows[name]

  def _rewrite(self):
    with files.replacing(self._path) as partial:
      partial.write_text(''.join(map(_line, self._rows.values())))

  def _append(self, line):
    """All of the line or nothing of it, also where the disk is full."""
    file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
      size = os.fstat(file).st_size
      try:
        while line:
          line = line[os.write(file, line):]
      except OSError:
        os.ftruncate(file, size)
        raise
    finally:
      os.close(file)

  def write_parquet(self) -> None:
    """Writes results.parquet anew."""
    pyarrow = optional.load('pyarrow')
    parquet = optional.load('pyarrow.parquet')
    rows = self._rows.values()
    names = dict.fromkeys(name for row in rows for name in row)
    if not names:
      return
    columns = {name: _column(pyarrow, [row.get(name) for row in rows])
               for name in names}
    with files.replacing(self._path.with_suffix('.parquet')) as partial:
      parquet.write_table(pyarrow.table(columns), partial)


def _column(pyarrow, values):
  """A typed column; values that have no type in common become JSON text."""
  try:
    return pyarrow.array(values)
  except pyarrow.ArrowException:
    return pyarrow.array([None if v is None else json.dumps(v) for v in values])


def _line(row):
  return json.dumps(row, allow_nan=False) + '\n'


def _whole(path):
  """Whether the file's last line is ended."""
  return not path.exists() or path.read_bytes()[-1:] in (b'', b'\n')
