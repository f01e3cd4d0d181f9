"""SIGTERM ends a run as Ctrl-C does, and handlers come back."""

import os
import signal
import threading

import numpy as np
import pytest

from vidleak_jax.runtime.checkpoint import Checkpoints
from vidleak_jax.runtime.run_logger import RunLogger
from vidleak_jax.runtime.signals import (
    EXIT_STATUS,
    Terminated,
    deferred,
    terminating,
)

STATE = {'clips': np.zeros((64, 100_000), np.float32)}


def test_sigterm_raises_once_and_the_handler_comes_back():
  before = signal.getsignal(signal.SIGTERM)
  tidied = []
  with pytest.raises(Terminated), terminating():
    try:
      os.kill(os.getpid(), signal.SIGTERM)
      signal.pause()
    finally:
      os.kill(os.getpid(), signal.SIGTERM)  # a second one does not disturb
      tidied.append(1)
  assert tidied and signal.getsignal(signal.SIGTERM) == before
  assert issubclass(Terminated, KeyboardInterrupt) and EXIT_STATUS == 143


@pytest.mark.parametrize(('number', 'error'), [
    (signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_what_belongs_together_comes_to_its_end(number, error):
  at_first = signal.getsignal(number)  # background jobs ignore Ctrl-C
  before = signal.default_int_handler
  signal.signal(number, before)
  done = []
  try:
    with pytest.raises(error), terminating():
      with deferred(), deferred():
        os.kill(os.getpid(), number)
        done.append(1)
      done.append(2)
    assert done == [1] and signal.getsignal(number) == before
  finally:
    signal.signal(number, at_first)


def test_the_checkpoint_being_written_becomes_complete(tmp_path):
  with pytest.raises(Terminated), terminating():
    with RunLogger(tmp_path, [tmp_path]) as logger:
      logger.resume(STATE)
      logger.start(20, 0)
      logger.write(10, STATE, 0.0, [{'best_loss': 1.0}])
      os.kill(os.getpid(), signal.SIGTERM)
      signal.pause()
  checkpoints = Checkpoints(tmp_path / 'checkpoints')
  assert checkpoints.restore(STATE)[1]['step'] == 10
  checkpoints.close()


def test_in_another_thread_nothing_changes():
  seen = []

  def work():
    with terminating():
      seen.append(signal.getsignal(signal.SIGTERM))
  before = signal.getsignal(signal.SIGTERM)
  thread = threading.Thread(target=work)
  thread.start()
  thread.join()
  assert seen == [before]
