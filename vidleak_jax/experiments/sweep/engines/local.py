"""This machine: a worker for each GPU, or for each share of the CPU's cores.

A worker that dies is replaced, and its group goes on from its checkpoint.
"""

import contextlib
import os
import queue
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vidleak_jax.experiments.sweep import outcomes
from vidleak_jax.experiments.sweep.engines import Finished, slots
from vidleak_jax.experiments.sweep.groups import Group
from vidleak_jax.runtime import signals

_SECONDS_TO_LEAVE = 10.0  # schedulers kill half a minute after SIGTERM
_MOST_DEATHS = 5  # of a group in a row, with nothing written in between


class Local:
  """Worker processes.

  Args:
    folder: of the sweep.
    token: of the launcher.
    workers: how many; 0 is one a GPU, or one a core where there is none.
  """

  def __init__(self, folder: Path, token: str, *, workers: int = 0):
    self._folder = folder
    self._asked: queue.SimpleQueue[Group | None] = queue.SimpleQueue()
    self._finished: queue.SimpleQueue[Any] = queue.SimpleQueue()  # or errors
    self._slots = slots.arrange(folder, token, workers)
    self.workers = len(self._slots)

  def __enter__(self):
    for slot in self._slots:
      threading.Thread(target=self._serve, args=(slot,), daemon=True).start()
    return self

  def __exit__(self, *error):
    for slot in self._slots:
      slot.leave()
    deadline = time.monotonic() + _SECONDS_TO_LEAVE
    for slot in self._slots:
      slot.wait(max(0.0, deadline - time.monotonic()))

  def submit(self, groups: Sequence[Group]) -> None:
    for group in groups:
      self._asked.put(group)

  def poll(self, seconds: float) -> list[Finished]:
    found = []
    with contextlib.suppress(queue.Empty):
      found.append(self._finished.get(timeout=seconds))
      while True:
        found.append(self._finished.get_nowait())
    for each in found:
      if isinstance(each, Exception):
        raise each
    return found

  def _serve(self, slot):
    while True:
      group = self._asked.get()
      try:
        self._finished.put(self._run(slot, group))
      except Exception as error:  # of this engine; it belongs to who polls
        self._finished.put(error)

  def _run(self, slot, group) -> Finished:
    """Asks a worker again after each death, unless nothing comes of it."""
    deaths, written = 0, _written(self._folder, group)
    while True:
      memory_kills = _memory_kills()
      answer, code = slot.ask(group.name)
      if code is None:
        return Finished(group, disk_full=answer)
      starved = memory_kills is None or (_memory_kills() or 0) > memory_kills
      if ((code == -signal.SIGKILL and not starved)
          or code in (-signal.SIGTERM, signals.EXIT_STATUS)):
        continue  # somebody's doing, not the trials'
      now = _written(self._folder, group)
      deaths = 1 if now > written else deaths + 1
      written = max(now, written)
      if deaths == _MOST_DEATHS:
        return Finished(group, lost=_death(code, slot.log))


def _written(folder, group) -> int:
  """Grows while a group gets on: files, and bytes of metrics."""
  total = 0
  for name in group.members:
    home = outcomes.home(folder, name)
    if home.exists():
      log = home / 'metrics.jsonl'
      total += len(os.listdir(home))
      total += log.stat().st_size if log.exists() else 0
  return total


def _memory_kills() -> int | None:
  """How often this machine has killed for lack of memory; None: unknown."""
  try:
    lines = Path('/proc/vmstat').read_text().splitlines()
  except OSError:
    return None
  counts = dict(line.split() for line in lines)
  return int(counts['oom_kill']) if 'oom_kill' in counts else None


def _death(code, log) -> str:
  if code == -signal.SIGKILL:
    how = 'was killed, likely for lack of memory'
  elif code < 0:
    how = f'died of {signal.Signals(-code).name}'
  else:
    how = f'left with exit status {code}'
  return (f'The worker {how}, {_MOST_DEATHS} times in a row without getting '
          f'on. Its last words are in {log}.')
