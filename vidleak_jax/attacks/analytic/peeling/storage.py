"""Solved blocks as files, from which a walk resumes."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from vidleak_jax import files
from vidleak_jax.attacks.analytic.peeling.branch import Row
from vidleak_jax.attacks.analytic.peeling.readers import Known
from vidleak_jax.runtime.session import Session


def folder(session: Session, name: str) -> Path | None:
  """Returns an update's own folder, or None where nothing is stored."""
  if session.folder is None:
    return None
  found = session.folder / name
  found.mkdir(parents=True, exist_ok=True, mode=0o700)
  return found


def once(place: Path | None, solve: Callable[[], tuple[Known, list[Row]]]
         ) -> tuple[Known, list[Row]]:
  """Returns what a file holds, or else what `solve` does, and stores it."""
  if place and place.exists():
    return read(place)
  known, rows = solve()
  write(place, known, rows)
  return known, rows


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
