"""The end that others set: SIGTERM, as schedulers and `kill` send it."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

EXIT_STATUS = 128 + signal.SIGTERM  # what shells expect after SIGTERM


class Terminated(KeyboardInterrupt):
  """SIGTERM came: what runs is left as it is left by Ctrl-C."""


@contextmanager
def deferred() -> Iterator[None]:
  """Lets Ctrl-C and SIGTERM wait until what is inside has come to its end.

  For writing what belongs together: a row and its checkpoint. Elsewhere than in
  the main thread, where Python delivers signals, nothing changes.
  """
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  waiting: list[int] = []
  before = {number: signal.signal(number, lambda n, _: waiting.append(n))
            for number in (signal.SIGINT, signal.SIGTERM)}
  try:
    yield
  finally:
    for number, handler in before.items():
      signal.signal(number, handler or signal.SIG_DFL)
    if waiting:
      signal.raise_signal(waiting[0])


@contextmanager
def terminating() -> Iterator[None]:
  """Lets SIGTERM raise `Terminated`, once, in the main thread.

  A second SIGTERM does not disturb the first one's tidying: a checkpoint that
  is being written becomes complete. The handler before is restored at the end.
  Elsewhere than in the main thread nothing changes, since Python lets no other
  thread set handlers.
  """
  if threading.current_thread() is not threading.main_thread():
    yield
    return

  def handle(number, frame):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Terminated

  before = signal.signal(signal.SIGTERM, handle)
  try:
    yield
  finally:
    # None: a handler that was not set from Python cannot be set from it.
    signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
