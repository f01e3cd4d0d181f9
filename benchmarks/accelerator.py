"""What a GPU, a TPU or a CPU does with this engine, in so many minutes.

  python benchmarks/accelerator.py --minutes=10 --out=runs/accelerator
  python benchmarks/accelerator.py --tiny --out=runs/accelerator

It needs jax, flax, optax, orbax, absl, ml_collections, NumPy and SciPy alone:
no data set, no video, nothing of this package installed. Rows come by priority;
each is printed as a JSON line and added at once to its group's file in --out,
so that a run that is cut has told what it knew. A row that fails says its
error, one that ends the process its status, and the next one is taken; what
would not end in time is skipped and says so. `--tiny` measures tiny cases: it
takes three minutes on two CPU cores and shows that all of it runs.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import app, flags

HERE = Path(__file__).resolve().parent
_MINUTES = flags.DEFINE_float('minutes', 10, 'No row begins that would end '
                              'after these.', lower_bound=0)
_OUT = flags.DEFINE_string('out', None, 'Folder of the rows.', required=True)
_TINY = flags.DEFINE_bool('tiny', False, 'Tiny cases of everything.')
_ONLY = flags.DEFINE_list('only', [], 'Names of rows to measure; none: all.')

_BEGUN = '> '  # marks the row that the measuring process is at
_GRACE = 60    # seconds after the last minute in which a row may still end


def main(argv: Sequence[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'Unexpected arguments {argv[1:]}.')
  deadline = time.monotonic() + 60 * _MINUTES.value
  folder = Path(_OUT.value)
  folder.mkdir(parents=True, exist_ok=True)
  for old in folder.glob('*.jsonl'):
    old.unlink()
  first: int | None = 0
  while first is not None:
    first = follow(first, deadline, folder)


def follow(first: int, deadline: float, folder: Path) -> int | None:
  """Writes the rows of one measuring process, which may not live to its end.

  Args:
    first: the row that it begins with.
    deadline: of `time.monotonic()`.
    folder: gets the rows.

  Returns:
    The row that the next process must begin with; None where all are done.
  """
  left = max(0.0, deadline - time.monotonic())
  command = [sys.executable, '-m', 'probes', f'--first={first}',
             f'--minutes={left / 60}', f'--tiny={_TINY.value}',
             f'--only={",".join(_ONLY.value)}']
  paths = [str(HERE), str(HERE.parent), os.environ.get('PYTHONPATH', '')]
  env = {'XLA_PYTHON_CLIENT_PREALLOCATE': 'false', **os.environ,
         'PYTHONPATH': os.pathsep.join(filter(None, paths))}
  child = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
  # A row that never ends must not hold what is behind it.
  timer = threading.Timer(left + _GRACE, child.kill)
  timer.start()
  begun = None
  for line in child.stdout:
    begun = _heard(line, folder)
  timer.cancel()
  status = child.wait()
  if begun is None and not status:
    return None
  number, row = begun or (None, {'group': 'machine', 'name': 'process'})
  _write(row | {'error': f'the process ended with status {status}'}, folder)
  return None if number is None else number + 1


def _heard(line: str, folder: Path) -> tuple[int, dict[str, Any]] | None:
  """Writes a row, or returns the number and label of one that began."""
  if line.startswith(_BEGUN):
    number, _, label = line.removeprefix(_BEGUN).partition(' ')
    return int(number), json.loads(label)
  _write(json.loads(line), folder)
  return None


def _write(row: dict[str, Any], folder: Path) -> None:
  """Prints a row and adds it to its group's file."""
  group = row.pop('group')
  line = json.dumps(row)
  print(line, flush=True)
  with (folder / f'{group}.jsonl').open('a') as file:
    file.write(line + '\n')


if __name__ == '__main__':
  app.run(main)
