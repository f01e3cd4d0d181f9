"""Trials that run together, as one program.

A group's members stand in `groups/NAME.json`: interrupted, it resumes only
with the same ones.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from vidleak_jax import files
from vidleak_jax.experiments import audit
from vidleak_jax.experiments.sweep import outcomes
from vidleak_jax.experiments.sweep.spaces import Trial
from vidleak_jax.types import Row


class Group(NamedTuple):
  """Some trials of equal shapes."""
  name: str                 # the hash of its members
  members: tuple[str, ...]  # names of trials


def plan(folder: Path, pending: Sequence[Trial], *, size: int,
         workers: int) -> list[Group]:
  """Who runs with whom: interrupted groups as they were, then the others.

  Args:
    folder: of the sweep; its `groups/` is brought up to date.
    pending: trials that have not ended.
    size: the most trials of a group.
    workers: how many groups run at once; none of them should be idle.
  """
  files.make_folder(folder / 'groups')
  wanted = {trial.name: trial for trial in pending}
  started = _interrupted(folder, wanted)
  for group in started:
    for name in group.members:
      wanted.pop(name, None)
  by_shape: dict[str, list[Trial]] = {}
  for trial in wanted.values():
    by_shape.setdefault(audit.shape_of(trial.audit), []).append(trial)
  most = min(size, -(-len(wanted) // workers))
  fresh = [_save(folder, chunk) for trials in by_shape.values()
           for chunk in _chunks(trials, most, workers)]
  return started + fresh


def load(folder: Path, name: str) -> dict[str, Row]:
  """Name -> config of the members of a group."""
  return json.loads((folder / 'groups' / f'{name}.json').read_text())


def home(folder: Path, name: str) -> Path:
  """Where the checkpoints of a group are."""
  return folder / 'groups' / name


def drop(folder: Path, name: str) -> None:
  """Forgets a group that has ended or never begun, and its checkpoints."""
  shutil.rmtree(home(folder, name), ignore_errors=True)
  (folder / 'groups' / f'{name}.json').unlink(missing_ok=True)


def _interrupted(folder, wanted) -> list[Group]:
  """Groups that have begun and not ended, those of other sweeps left out."""
  found = []
  for path in sorted((folder / 'groups').glob('*.json')):
    group = Group(path.stem, tuple(load(folder, path.stem)))
    begun = any(outcomes.home(folder, each).exists() for each in group.members)
    if not begun or all(outcomes.status(folder, each)
                        for each in group.members):
      drop(folder, group.name)
    elif any(each in wanted for each in group.members):
      found.append(group)
  return found


def _chunks(trials, most, workers):
  """Equal parts, of one size but for the last: a size compiles once."""
  count = -(-len(trials) // most)
  if count > workers:  # so that all workers end together
    count = -(-count // workers) * workers
  size = -(-len(trials) // count)
  return [trials[i:i + size] for i in range(0, len(trials), size)]


def _save(folder, trials):
  members = tuple(trial.name for trial in trials)
  name = hashlib.sha256(' '.join(members).encode()).hexdigest()[:16]
  files.write_json(folder / 'groups' / f'{name}.json',
                   {trial.name: trial.audit.to_dict() for trial in trials})
  return Group(name, members)
