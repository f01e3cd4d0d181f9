"""SLURM, through submitit: one array, a job for each group.

The workdir must be on a file system that the nodes share. Jobs that time out or
are preempted are queued again and go on from their checkpoint.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vidleak_jax.experiments.sweep.engines import Finished
from vidleak_jax.experiments.sweep.groups import Group
from vidleak_jax.experiments.sweep.worker import run_group
from vidleak_jax.types import UserError


class Slurm:
  """Arrays of jobs.

  Args:
    folder: of the sweep; submitit's scripts and logs go to `slurm/` in it.
    token: of the launcher.
    workers: how many jobs of an array run at once.
    options: NAME=VALUE of submitit's `update_parameters`, such as
      timeout_min, gpus_per_node, slurm_partition; and `cluster`, `slurm` or
      `local`, which runs the jobs on this machine to try things out.
  """

  def __init__(self, folder: Path, token: str, *, workers: int = 0,
               options: Sequence[str] = ()):
    try:
      import submitit
    except ImportError as error:
      raise UserError('--engine=slurm needs submitit: pip install '
                      '"vidleak_jax[slurm]".') from error
    given: dict[str, Any] = dict(map(_pair, options))
    self._folder, self._token = folder.absolute(), token
    self._open: dict[Any, Group] = {}  # by submitit's job
    self.workers = workers or 1
    try:
      self._executor = submitit.AutoExecutor(
          self._folder / 'slurm', cluster=given.pop('cluster', 'slurm'))
      self._executor.update_parameters(
          name='vidleak', slurm_array_parallelism=self.workers, **given)
    except (NameError, RuntimeError, TypeError, ValueError) as error:
      raise UserError(f'submitit does not take --slurm: {error}') from error

  def __enter__(self):
    return self

  def __exit__(self, *error):
    for job in self._open:
      job.cancel()

  def submit(self, groups: Sequence[Group]) -> None:
    jobs = self._executor.map_array(
        _Job(self._folder, self._token), [group.name for group in groups])
    self._open |= dict(zip(jobs, groups, strict=True))

  def poll(self, seconds: float) -> list[Finished]:
    time.sleep(seconds)
    return [self._finished(job, self._open.pop(job))
            for job in list(self._open) if job.done()]

  def _finished(self, job, group):
    try:
      return Finished(group, disk_full=job.result())
    except Exception as error:  # submitit has no class of its own for all
      return Finished(group, lost=f'SLURM job {job.job_id}: {error}')


def _pair(text):
  name, given, value = text.partition('=')
  if not given:
    raise UserError(f'--slurm takes NAME=VALUE,... and got {text!r}.')
  try:
    return name, json.loads(value)  # numbers, true and false
  except json.JSONDecodeError:
    return name, value


class _Job:
  """What an array's job calls with its group."""

  def __init__(self, folder, token):
    self._folder, self._token = folder, token

  def __call__(self, name):
    return run_group(self._folder, name, self._token)

  def checkpoint(self, name):
    """Called by submitit before a job's time is over: queue it again."""
    import submitit
    return submitit.helpers.DelayedSubmission(self, name)
