"""summary.html: what a sweep found, from its rows; opens without network."""

import json
from collections.abc import Sequence
from pathlib import Path

from vidleak_jax import files
from vidleak_jax.experiments.sweep.summary import page
from vidleak_jax.runtime import progress
from vidleak_jax.types import UserError


def write(folder: Path, over: Sequence[str] = ('seed',)) -> Path:
  """Writes the page of a sweep, which may still be going on.

  Args:
    folder: the workdir of the sweep.
    over: swept fields that are averaged over, not compared.

  Raises:
    UserError: where no sweep has been, or none of its trials has ended.
  """
  asked = folder / 'sweep.json'
  rows = progress.read_rows(folder / 'results.jsonl')
  if not asked.exists() or not rows:
    raise UserError(f'{folder} holds no results of a sweep. Run '
                    'launch/sweep.py with this --workdir first.')
  setup = json.loads(asked.read_text())
  path = folder / 'summary.html'
  with files.replacing(path) as partial:
    partial.write_text(page.render(folder, rows, setup, over), encoding='utf-8')
  return path
