"""A Ray cluster: each group is a task; Ray places, retries and reports them.

The workdir must be the same folder on all nodes, and vidleak_jax be installed
there, at the same path or into the environment.
"""

import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from vidleak_jax.experiments.sweep.engines import Finished
from vidleak_jax.experiments.sweep.engines.slots import importable
from vidleak_jax.experiments.sweep.groups import Group
from vidleak_jax.experiments.sweep.worker import GROUPS_PER_CACHE, run_group
from vidleak_jax.types import UserError

_RETRIES = 100  # of a group whose process or node is lost


class Ray:
  """Tasks on a cluster.

  Args:
    folder: of the sweep.
    token: of the launcher.
    address: of the cluster, `auto` for the one that this machine is in; ''
      starts one here.
    workers: how many groups should run at once; 0: as many as the cluster has
      room for.
    cpus: that a group needs; on a CPU, also how many devices it has.
    resources: others that it needs, such as {'GPU': 1} or {'TPU': 4}; 0 is
      none.
  """

  def __init__(self, folder: Path, token: str, *, address: str = '',
               workers: int = 0, cpus: int = 1,
               resources: dict[str, float] | None = None):
    try:
      import ray
    except ImportError as error:
      raise UserError('--engine=ray needs Ray: pip install '
                      '"vidleak_jax[ray]".') from error
    self._ray, self._folder, self._token = ray, folder.absolute(), token
    self._resources = {k: v for k, v in (resources or {}).items() if v}
    self._cpus = cpus
    self._open: dict[Any, Group] = {}  # by Ray's task
    flags = f'--xla_force_host_platform_device_count={cpus}'
    try:
      _knock(address)
      ray.init(address=address or None, log_to_driver=False, runtime_env={
          'env_vars': {'XLA_FLAGS': flags, **importable()}})
    except OSError as error:  # ConnectionError is one
      raise UserError(f'No Ray cluster answers at --ray_address={address}: '
                      f'{error}') from error
    self.workers = workers or self._room()

  def __enter__(self):
    return self

  def __exit__(self, *error):
    for task in self._open:
      self._ray.cancel(task, force=True)
    self._ray.shutdown()

  def submit(self, groups: Sequence[Group]) -> None:
    others = dict(self._resources)
    task = self._ray.remote(
        num_cpus=self._cpus, num_gpus=others.pop('GPU', 0), resources=others,
        max_retries=_RETRIES, max_calls=GROUPS_PER_CACHE,
        scheduling_strategy='SPREAD')(_run_group)
    for group in groups:
      task_id = task.options(name=f'group {group.name}').remote(
          str(self._folder), group.name, self._token)
      self._open[task_id] = group

  def poll(self, seconds: float) -> list[Finished]:
    if not self._open:
      time.sleep(seconds)
      return []
    ready, _ = self._ray.wait(
        list(self._open), num_returns=len(self._open), timeout=seconds)
    return [self._finished(task, self._open.pop(task)) for task in ready]

  def _finished(self, task, group):
    try:
      return Finished(group, disk_full=self._ray.get(task))
    except self._ray.exceptions.RayError as error:
      cause = getattr(error, 'cause', None) or error
      return Finished(group, lost='Ray gave the group up: '
                      f'{type(cause).__name__}: {cause}')

  def _room(self):
    have = self._ray.cluster_resources()
    need = {'CPU': self._cpus, **self._resources}
    room = min(have.get(name, 0) // each for name, each in need.items())
    if room < 1:
      raise UserError(f'A worker needs {need}, but the cluster has '
                      f'{have.get("CPU", 0):g} CPUs and {have}.')
    return int(room)


def _knock(address):
  """Finds out in seconds what Ray would in minutes."""
  place = urlsplit(f'//{address.rpartition("//")[2]}')
  if place.port:
    socket.create_connection((place.hostname, place.port), 10).close()


def _run_group(folder, name, token):
  """The task."""
  return run_group(Path(folder), name, token)
