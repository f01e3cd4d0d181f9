"""The end that others set: SIGTERM, as schedulers and `kill` send it."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

EXIT_STATUS = 128 + signal.SIGTERM  # what shells expect after SIGTERM


class Terminated(KeyboardInterrupt):
  """SIGTERM came: what runs is left as it is left by Ctrl-C."""


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
