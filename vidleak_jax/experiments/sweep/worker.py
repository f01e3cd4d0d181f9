"""Runs groups of trials.

`python -m vidleak_jax.experiments.sweep.worker` is a process that takes one
after another, so that imports and compilations are paid once.

It hears group names on stdin, a line each, and answers each with a line on
stdout: a JSON string, empty when all members have ended. What the trials print
goes to stderr. It ends with its launcher, when stdin closes; and at SIGTERM,
once the checkpoint that is being written is complete.
"""

import argparse
import contextlib
import json
import os
import queue
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from vidleak_jax import files
from vidleak_jax.experiments.sweep import groups, locks, outcomes
from vidleak_jax.runtime import signals

# JAX keeps the traced programs of each group, 10 to 20 MB; to forget them costs
# some seconds.
GROUPS_PER_CACHE = 16


def run_group(folder: Path, name: str, token: str) -> str:
  """Runs a group, or what is left of it.

  Each member then has a result, or an error in its place.

  Args:
    folder: of the sweep.
    name: of the group.
    token: of the launcher that asks.

  Returns:
    Empty; or, when the disk is full, what could not be written. Then the
    members that have not ended go on next time.

  Raises:
    locks.Superseded: when that launcher is gone.
  """
  try:
    with locks.sole_worker(folder, name, token), _launchers_command(folder):
      members = groups.load(folder, name)
      answers = _run(folder, members, groups.home(folder, name))
      return _record(folder, zip(members, answers, strict=True))
  except OSError as error:
    if not files.disk_is_full(error):
      raise
    return str(error)


@contextlib.contextmanager
def _launchers_command(folder):
  """What a trial records as the command to repeat it."""
  own = sys.argv
  sys.argv = json.loads((folder / 'sweep.json').read_text())['command'][1:]
  try:
    yield
  finally:
    sys.argv = own


def _run(folder, members, shared):
  """Of each member its result or an exception."""
  from vidleak_jax.experiments import audit
  try:
    return audit.run_many(
        list(members.values()),
        [outcomes.home(folder, name) for name in members], shared,
        log_fn=lambda _: None)
  except Exception as error:
    if len(members) == 1 or files.disk_is_full(error):
      return [error] * len(members)
  # A fault of one member's, or too much for one program: each by itself.
  return [_run(folder, {name: config}, shared / name)[0]
          for name, config in members.items()]


def _record(folder, answers):
  """Writes down failures; those that a full disk caused are no failures."""
  failed = {member: answer for member, answer in answers
            if isinstance(answer, Exception)}
  for error in failed.values():
    if files.disk_is_full(error):
      return str(error)
  for member, error in failed.items():
    outcomes.record_failure(folder, member, *outcomes.describe(error))
  return ''


def main() -> None:
  """Serves one launcher."""
  parser = argparse.ArgumentParser()
  parser.add_argument('folder', type=Path)
  parser.add_argument('token')
  options = parser.parse_args()
  os.umask(0o077)
  answers = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)
  try:
    with signals.terminating():
      _serve(options.folder, options.token, answers)
  except signals.Terminated:
    # The last chunk's checkpoint is complete. The thread that listens holds
    # stdin, so that the interpreter could not tidy up.
    sys.stderr.flush()
    os._exit(signals.EXIT_STATUS)


def _serve(folder, token, answers):
  """Runs what is asked for, until stdin closes."""
  for count, name in enumerate(_asked(), 1):
    try:
      answer = run_group(folder, name, token)
    except locks.Superseded as error:
      sys.exit(str(error))
    print(json.dumps(answer), file=answers, flush=True)
    if count % GROUPS_PER_CACHE == 0:
      import jax
      jax.clear_caches()


def _asked() -> Iterator[str]:
  """The groups asked for. A thread listens, since the end must be heard while
  a group runs."""
  names: queue.SimpleQueue[str] = queue.SimpleQueue()

  def listen():
    for line in sys.stdin:
      names.put(line.strip())
    os._exit(1)
  threading.Thread(target=listen, daemon=True).start()
  while True:
    yield names.get()


if __name__ == '__main__':
  main()
