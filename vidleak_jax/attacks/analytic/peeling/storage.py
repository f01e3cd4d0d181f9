"""Solved blocks as files, from which a walk resumes."""

import dataclasses
import json
from pathlib import Path

import numpy as np

from vidleak_jax import files
from vidleak_jax.attacks.analytic.peeling.branch import Row
from vidleak_jax.attacks.analytic.peeling.readers import Known


def write(place: Path | None, known: Known, rows: list[Row]) -> None:
  """Writes what one block told; nothing without a place."""
  if place is None:
    return
  text = json.dumps([dataclasses.asdict(row) for row in rows])
  files.write_arrays(place, rows=np.array(text), **{
      name: field for name, field in known._asdict().items()
      if field is not None})


def read(place: Path) -> tuple[Known, list[Row]]:
  """Returns what `write` wrote."""
  with np.load(place) as stored:
    known = Known(*(stored[name] if name in stored else None
                    for name in Known._fields))
    return known, [Row(**row) for row in json.loads(str(stored['rows']))]
