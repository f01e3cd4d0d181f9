"""Checkpoints: the only place that knows Orbax.

A checkpoint is written under a temporary name and renamed, so a process killed
at any moment leaves the last complete one.
"""

import errno
import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from vidleak_jax import files
from vidleak_jax.runtime import signals
from vidleak_jax.types import Row, UserError

_SPARE_BYTES = 2**20  # for Orbax's own files beside the arrays


class Checkpoints:
  """The newest states of one run."""

  def __init__(self, folder: Path, keep: int | None = 2,
               log_fn: Callable[[str], None] = print):
    """Opens a folder of checkpoints, made where it is missing.

    Args:
      folder: where they are.
      keep: how many of the newest stay; None: all.
      log_fn: gets what a person should know: which checkpoint was damaged.
    """
    self._folder, self._log = folder, log_fn
    # One process writes, whichever it is: no barrier with the others.
    alone = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(),
        active_processes={jax.process_index()},
        barrier_sync_key_prefix=f'process_{jax.process_index()}')
    files.make_folder(folder)
    self._manager = ocp.CheckpointManager(
        folder.absolute(), options=ocp.CheckpointManagerOptions(
            max_to_keep=keep, enable_async_checkpointing=True,
            create=False, multiprocessing_options=alone))

  def save(self, step: int, state: Any, facts: Row) -> None:
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
    with signals.deferred():  # Orbax tells of an interrupt by a traceback
      self._guard(write)

  def restore(self, like: Any) -> tuple[Any, Row] | None:
    """Returns the newest (state, facts) that can be read, or None.

    A damaged checkpoint is told, set aside as `damaged_STEP` and the one before
    it is taken; None means to start anew, as where nothing was saved.

    Args:
      like: a tree of the same structure and shapes.
    """
    damaged = False
    for step in sorted(self._manager.all_steps(), reverse=True):
      try:
        restored = self._manager.restore(step, args=ocp.args.Composite(
            state=ocp.args.StandardRestore(like), facts=ocp.args.JsonRestore()))
        found = restored['state'], restored['facts']
        _check_shapes(found, like)
      except MemoryError:
        raise
      except Exception as error:  # Orbax and TensorStore have many kinds
        damaged = True
        self._set_aside(step, error)
        continue
      if damaged:
        self._log(f'Going on from the checkpoint of step {step}.')
      return found
    if damaged:
      self._log('No other checkpoint is left: starting anew.')
    return None

  def _set_aside(self, step, error):
    """Moves a damaged checkpoint out of the way of the steps to come."""
    # Not `damaged_STEP` alone: an earlier one of that step may stand there.
    target = next(path for number in itertools.count() if not (
        path := self._folder / f'damaged_{step}{f"_{number}" * (number > 0)}'
    ).exists())
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    self._log(f'The checkpoint of step {step} cannot be read '
              f'({type(error).__name__}: {reason[:120]}); it is kept as '
              f'{target}.')
    (self._folder / str(step)).rename(target)
    self._manager.reload()

  def course(self) -> Iterator[tuple[Any, Row]]:
    """(state as plain dicts, facts) of each checkpoint that stands."""
    for step in sorted(self._manager.all_steps()):
      found = self._manager.restore(step, args=ocp.args.Composite(
          state=ocp.args.StandardRestore(), facts=ocp.args.JsonRestore()))
      yield found['state'], found['facts']

  def close(self) -> None:
    """Waits for the last write."""
    self._guard(self._manager.wait_until_finished)
    self._manager.close()
    files.make_private(self._folder)  # Orbax knows no mode for its files

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


def _check_shapes(found, like):
  """Orbax restores what it finds; facts too must be whole."""
  state, facts = found
  if not isinstance(facts, dict):
    raise ValueError('its facts are no JSON object')
  for one, other in zip(jax.tree.leaves(state), jax.tree.leaves(like),
                        strict=True):
    if np.shape(one) != np.shape(other):
      raise ValueError(f'it holds shapes {np.shape(one)}, not '
                       f'{np.shape(other)}')


def read_foreign(folder: Path) -> Any:
  """Returns the tree of a checkpoint that another program wrote with Orbax.

  Args:
    folder: of one step, or of a `CheckpointManager`, whose last step is read.

  Raises:
    Exception: whatever Orbax raises for a folder that holds no checkpoint.
  """
  steps = sorted((each for each in folder.iterdir() if each.name.isdigit()),
                 key=lambda each: int(each.name))
  folder = (steps[-1] if steps else folder).resolve()
  inner = folder / 'default'
  return ocp.PyTreeCheckpointer().restore(inner if inner.is_dir() else folder)
