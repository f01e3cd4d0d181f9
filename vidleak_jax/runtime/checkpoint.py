"""Checkpoints: the only place that knows Orbax.

A checkpoint is written under a temporary name and renamed, so a process killed
at any moment leaves the last complete one.
"""

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from vidleak_jax import files
from vidleak_jax.types import UserError

_SPARE_BYTES = 2**20  # for Orbax's own files beside the arrays


class Checkpoints:
  """The newest states of one run."""

  def __init__(self, folder: Path, keep: int | None = 2):
    """`keep` newest ones stay; None: all."""
    self._folder = folder
    # One process writes, whichever it is: no barrier with the others.
    alone = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(),
        active_processes={jax.process_index()},
        barrier_sync_key_prefix=f'process_{jax.process_index()}')
    folder.mkdir(parents=True, exist_ok=True)
    self._manager = ocp.CheckpointManager(
        folder.absolute(), options=ocp.CheckpointManagerOptions(
            max_to_keep=keep, enable_async_checkpointing=True,
            create=False, multiprocessing_options=alone))

  def save(self, step: int, state: Any, facts: dict[str, Any]) -> None:
    """Writes in the background.

    Args:
      step: must grow from call to call.
      state: a tree of host arrays (so that any device count can restore it).
      facts: small and JSON-able.

    Raises:
      UserError: when the disk is full.
    """
    def write():
      self._find_space(state)
      self._manager.save(step, args=ocp.args.Composite(
          state=ocp.args.StandardSave(state), facts=ocp.args.JsonSave(facts)))
    self._guard(write)

  def restore(self, like: Any) -> tuple[Any, dict[str, Any]] | None:
    """The newest (state, facts), or None where nothing was saved.

    Args:
      like: a tree of the same structure and shapes.
    """
    step = self._manager.latest_step()
    if step is None:
      return None
    restored = self._manager.restore(step, args=ocp.args.Composite(
        state=ocp.args.StandardRestore(like), facts=ocp.args.JsonRestore()))
    return restored['state'], restored['facts']

  def course(self) -> Iterator[tuple[Any, dict[str, Any]]]:
    """(state as plain dicts, facts) of each checkpoint that stands."""
    for step in sorted(self._manager.all_steps()):
      found = self._manager.restore(step, args=ocp.args.Composite(
          state=ocp.args.StandardRestore(), facts=ocp.args.JsonRestore()))
      yield found['state'], found['facts']

  def close(self) -> None:
    """Waits for the last write."""
    self._guard(self._manager.wait_until_finished)
    self._manager.close()

  def _find_space(self, state):
    """Fails in one line; each of Orbax's threads would print a traceback."""
    need = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(state))
    if shutil.disk_usage(self._folder).free < need + _SPARE_BYTES:
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  def _guard(self, write):
    """Tells a full disk apart from a defect."""
    try:
      write()
    except Exception as error:
      if not files.disk_is_full(error):
        raise
      raise UserError(
          f'The disk is full: no checkpoint could be written to '
          f'{self._folder}. The last complete one (step '
          f'{self._manager.latest_step()}) stands; make space and run the same '
          'command to go on from there.') from error
