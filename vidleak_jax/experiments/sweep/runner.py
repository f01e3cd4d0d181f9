"""A sweep from start to end: the file to read first.

  config -> trials -> groups -> engine -> trial folders -> results.jsonl
"""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vidleak_jax import files
from vidleak_jax.experiments.sweep import groups, locks, outcomes, search
from vidleak_jax.experiments.sweep.engines import Engine, Finished
from vidleak_jax.experiments.sweep.spaces import Trial
from vidleak_jax.experiments.sweep.table import Table
from vidleak_jax.runtime import workdir
from vidleak_jax.runtime.session import Report
from vidleak_jax.types import Row, UserError

_PAUSE = 0.5  # seconds between looks at the trial folders, at least
_FAILURES_SHOWN = 3
_PATIENCE = 5  # times what a look took: on slow disks it is rarer


class Summary(NamedTuple):
  """How a sweep stands when it ends."""
  done: int
  failed: list[Row]  # their rows

  def text(self, folder: Path) -> str:
    """For the end of a terminal session."""
    lines = [f'{self.done} trials done, {len(self.failed)} failed.']
    for row in self.failed[:_FAILURES_SHOWN]:
      lines.append(f'{outcomes.home(folder, row["trial"])}: {row["error"]}')
    if len(self.failed) > _FAILURES_SHOWN:
      lines.append('...')
    if self.failed:
      lines.append('--retry_failed runs them again.')
    lines.append(f'rows: {folder / "results.jsonl"}')
    return '\n'.join(lines)


def run(
    config: Mapping[str, Any], folder: Path,
    make_engine: Callable[[Path, str], Engine], *,
    group_size: int = 32, retry_failed: bool = False, sampler: str = '',
    log_fn: Callable[[str], None] = lambda text: None,
    progress: Report | None = None,
) -> Summary:
  """Runs all trials that have not ended, and writes the tables.

  Args:
    config: resolved, with a field `sweep`.
    folder: the workdir. Trials of earlier sweeps in it stay and count.
    make_engine: from the workdir and the launcher's token.
    group_size: the most trials that run as one program.
    retry_failed: runs failed trials again.
    sampler: `optuna` searches `sweep.random` for the best match; '' draws.
    log_fn: where messages for people go.
    progress: hears how many trials have ended, see `session.Report`.

  Raises:
    UserError: for another launcher at work, a full disk, a wrong config.
  """
  with locks.sole_launcher(folder) as token:
    locks.wait_for_workers(folder, log_fn)
    plan = search.plan(sampler, config, folder)
    files.write_json(folder / 'sweep.json', {
        'fields': plan.fields, 'config': config, **workdir.versions()})
    table = Table(folder)
    with make_engine(folder, token) as engine:
      sweep = _Sweep(folder, engine, table, group_size, functools.partial(
          progress or _silent, 'sweep', total=plan.total))
      while trials := plan.ask():
        sweep.adopt(trials, retry_failed)
        plan.tell(sweep.finish(trials))
      table.write_parquet()
    return Summary(sweep.done, sweep.failed)


def _silent(stage: str, done: int, total: int, **values: object) -> None:
  """Hears nothing."""


class _Sweep:
  """The part that does not depend on how trials are chosen."""

  def __init__(self, folder, engine, table, group_size, report):
    self._folder, self._engine, self._table = folder, engine, table
    self._group_size, self._at_work = group_size, {}
    self.done, self.failed, self._report = 0, [], report

  def adopt(self, trials: Sequence[Trial], retry_failed: bool) -> None:
    """Takes trials on; those that have ended are counted."""
    if retry_failed:
      for trial in trials:
        outcomes.forget_failure(self._folder, trial.name)
    self._table.adopt(trials)
    self._pending = {trial.name: trial for trial in trials}
    for trial in list(self._pending.values()):
      if trial.name in self._table:
        self._count(self._table[trial.name])
    self._report(done=self.done + len(self.failed))

  def finish(self, trials: Sequence[Trial]) -> list[Row]:
    """Runs those that have not ended; the rows of all, in order."""
    self._look()
    self._run(groups.plan(
        self._folder, list(self._pending.values()), size=self._group_size,
        workers=self._engine.workers))
    return [self._table[trial.name] for trial in trials]

  def _run(self, planned):
    self._at_work = {group.name: group for group in planned}
    self._engine.submit(planned)
    pause = _PAUSE
    while self._at_work:
      for finished in self._engine.poll(pause):
        del self._at_work[finished.group.name]
        self._settle(finished)
      began = time.monotonic()
      self._look()
      pause = max(_PAUSE, _PATIENCE * (time.monotonic() - began))

  def _settle(self, finished: Finished):
    """Sees to it that every member of a group has ended."""
    if finished.disk_full:
      raise UserError(
          'The disk is full, so the sweep stops. Make space and run the same '
          f'command: it goes on. What could not be written: '
          f'{finished.disk_full}')
    lost = finished.lost or 'The worker left no result.'
    for name in finished.group.members:
      if not outcomes.status(self._folder, name):
        outcomes.record_failure(self._folder, name, lost, lost)
    self._look(finished.group.members)
    groups.drop(self._folder, finished.group.name)

  def _look(self, ended=()):
    """Adds the rows of trials that are done, and of those that have failed
    once their group has ended."""
    for name, trial in list(self._pending.items()):
      if name in ended or outcomes.status(self._folder, name) == outcomes.DONE:
        self._count(self._table.add(trial))
    running = [name for group in self._at_work.values()
               if locks.is_at_work(self._folder, group.name)
               for name in group.members if name in self._pending]
    self._report(done=self.done + len(self.failed), running=len(running),
                 failed=len(self.failed))

  def _count(self, row):
    del self._pending[row['trial']]
    if row['status'] == outcomes.DONE:
      self.done += 1
    else:
      self.failed.append(row)
