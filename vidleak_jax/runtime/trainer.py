"""The loop that all training shares: chunks, logs, checkpoints, resume.

What a step does, and on which data, is the caller's; as long as that depends on
the step's number alone, a run that goes on ends as an uninterrupted one, bit
for bit.
"""

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax

from vidleak_jax.runtime.checkpoint import Checkpoints
from vidleak_jax.runtime.progress import MetricsLog
from vidleak_jax.runtime.session import Report
from vidleak_jax.types import Row


def train(
    state: Any,
    advance: Callable[[Any, int], tuple[Any, Any]],
    at_stop: Callable[[int, Any, Any], Row],
    *,
    stops: Iterable[int],
    checkpoints: Path,
    log: MetricsLog | None = None,
    what: str = 'training',
    progress: Report | None = None,
    logged_before: int = 0,
    place: Callable[[Any], Any] = lambda state: state,
    fetch: Callable[[Any], Any] = jax.device_get,
    at_start: Callable[[Any], None] = lambda state: None,
) -> tuple[Any, float]:
  """Trains to the last stop; goes on from the newest checkpoint.

  Args:
    state: on the host, with a field `step`, of no steps done.
    advance: (placed state, number of the step) -> (placed state, terms).
    at_stop: (steps done, host state, terms of the last step) -> the row to log.
    stops: steps after which the state is logged and saved, ascending.
    checkpoints: their folder.
    log: where rows go; rows that a killed run wrote after its last checkpoint
      are dropped first.
    what: the stage that is reported.
    progress: hears of each stop; None: nothing is told.
    logged_before: steps of other training in the same log.
    place: puts a host state where steps run.
    fetch: its inverse.
    at_start: called with the state before the first step of all.

  Returns:
    The last state, on the host, and the seconds spent, those of earlier runs
    included.

  Raises:
    UserError: when the disk is full.
  """
  stops = sorted(stops)
  saver = Checkpoints(checkpoints)
  try:
    saved = saver.restore(state)
    state = type(state)(*saved[0]) if saved else state
    done, earlier = int(state.step), saved[1]['seconds'] if saved else 0.0
    if done >= stops[-1]:
      return state, earlier
    if log:
      log.truncate_after(logged_before + done)
    if not done:
      at_start(state)
    placed, began = place(state), time.perf_counter()
    if progress:
      progress(what, done, stops[-1])
    for stop in [stop for stop in stops if stop > done]:
      for step in range(done, stop):
        placed, terms = advance(placed, step)
      state, done = fetch(placed), stop
      row = at_stop(done, state, terms)
      seconds = earlier + time.perf_counter() - began
      if log:
        log.write(logged_before + done, seconds=seconds, **row)
      if progress:
        progress(what, done, stops[-1], **{
            k: v for k, v in row.items() if isinstance(v, float)})
      saver.save(done, state, {'seconds': seconds})
    return state, earlier + time.perf_counter() - began
  finally:
    saver.close()
