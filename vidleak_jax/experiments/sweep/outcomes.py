"""What became of a trial, read from its folder: the only truth about it."""

import json
import traceback
from pathlib import Path

from vidleak_jax import files
from vidleak_jax.experiments.sweep.spaces import Trial
from vidleak_jax.types import Row

DONE, FAILED = 'done', 'failed'


def home(folder: Path, name: str) -> Path:
  """The workdir of one trial within that of the sweep."""
  return folder / 'trials' / name


def status(folder: Path, name: str) -> str | None:
  """`done`, `failed`, or None while it has not ended."""
  own = home(folder, name)
  if (own / 'result.json').exists():
    return DONE
  return FAILED if (own / 'error.json').exists() else None


def row(folder: Path, trial: Trial) -> Row:
  """Its row in results.jsonl, once it has ended."""
  ended = status(folder, trial.name)
  file = 'result.json' if ended == DONE else 'error.json'
  found = json.loads((home(folder, trial.name) / file).read_text())
  return {'trial': trial.name, 'status': ended, **trial.fields, **found}


def record_failure(folder: Path, name: str, error: str, details: str) -> None:
  """Ends a trial as failed: the first line of `error` goes into its row, the
  `details` into a file. A trial that is done stays so.
  """
  if status(folder, name) == DONE:
    return
  own = home(folder, name)
  files.make_folder(own)
  with files.replacing(own / 'error.txt') as partial:
    partial.write_text(details)
  files.write_json(own / 'error.json', {'error': error.strip().split('\n')[0]})


def forget_failure(folder: Path, name: str) -> None:
  """Lets a failed trial run again."""
  (home(folder, name) / 'error.json').unlink(missing_ok=True)


def describe(error: BaseException) -> tuple[str, str]:
  """An error in short, and with its traceback."""
  kind = type(error).__name__
  return (f'{kind}: {error}'.strip(),
          ''.join(traceback.format_exception(error)))
