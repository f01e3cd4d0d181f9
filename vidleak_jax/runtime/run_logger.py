"""What long work leaves behind: checkpoints, metrics.jsonl, a progress line.

Of several processes only the leader writes; all of them resume from what it
finds.
"""

import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vidleak_jax.runtime import parallel, signals
from vidleak_jax.runtime.checkpoint import Checkpoints
from vidleak_jax.runtime.progress import MetricsLog
from vidleak_jax.runtime.session import Report
from vidleak_jax.types import Row


class RunLogger:
  """Logs and checkpoints of a program that runs some trials.

  It is a context manager. Without a folder nothing is written, and the work
  starts anew each time.

  Args:
    folder: gets checkpoints/; None: nothing is written.
    trials: each gets a metrics.jsonl of its own.
    tensorboard: also writes TensorBoard events there.
    keep: how many checkpoints stay; 0: all.
    report: hears of each chunk, see `session.Report`.
    stage: the name of the work.
  """

  def __init__(self, folder: Path | None, trials: Sequence[Path | None], *,
               tensorboard: bool = False, keep: int = 2,
               report: Report | None = None, stage: str = 'attack'):
    self._folder, self._trials = folder, trials
    self._tensorboard, self._keep = tensorboard, keep or None
    self._logs, self._checkpoints = [], None
    self._report, self._stage, self._total = report, stage, 0

  def __enter__(self):
    self._stack = ExitStack()
    if parallel.is_leader() and self._folder is not None:
      self._checkpoints = Checkpoints(
          self._folder / 'checkpoints', self._keep, _warn)
      self._stack.callback(self._checkpoints.close)
      self._logs = [
          self._stack.enter_context(MetricsLog(
              trial / 'metrics.jsonl', tensorboard=self._tensorboard))
          for trial in self._trials]
    return self

  def __exit__(self, *error):
    return self._stack.__exit__(*error)

  def resume(self, state: Any) -> tuple[Any, Row]:
    """Returns (state, facts) of the newest checkpoint, or the state and {}.

    Damaged checkpoints are told on stderr, and the one before them is taken.

    Args:
      state: a tree of host arrays, of the shapes that were saved.
    """
    found = None
    if self._checkpoints is not None:
      found = self._checkpoints.restore(state)
    facts = json.loads(parallel.share(json.dumps(found and found[1]).encode()))
    if facts is None:
      facts = {}
    elif jax.process_count() > 1:
      from jax.experimental.multihost_utils import broadcast_one_to_all
      state = jax.tree.map(
          np.asarray, broadcast_one_to_all(found[0] if found else state))
    else:
      state = found[0]
    for log in self._logs:
      log.truncate_after(facts.get('step', 0))
    return state, facts

  def start(self, num_steps: int, done: int) -> None:
    """Reports progress from now on."""
    self._total = num_steps
    if self._report and parallel.is_leader():
      self._report(self._stage, done, num_steps)

  def write(self, done: int, state: Any, seconds: float,
            rows: Sequence[Row], **facts: Any) -> None:
    """Saves the state, and a row of each trial.

    Args:
      done: steps so far.
      state: a tree of host arrays; nobody may write to them afterwards.
      seconds: spent so far.
      rows: one of each trial, for its metrics.jsonl.
      **facts: more to be found again by `resume`; small and JSON-able.

    Raises:
      UserError: when the disk is full.
    """
    if not parallel.is_leader():
      return
    if self._checkpoints is not None:
      # Rows first: a kill in between leaves some too many, which `resume`
      # drops. The other way round, they would be missing for good.
      with signals.deferred():
        for log, row in zip(self._logs, rows, strict=True):
          log.write(done, seconds=seconds, **row)
        self._checkpoints.save(
            done, state, {'step': done, 'seconds': seconds, **facts})
    if self._report:
      best = float(np.mean([row['best_loss'] for row in rows]))
      self._report(self._stage, done, self._total, best_match=best)


def _warn(text):
  print(text, file=sys.stderr, flush=True)
