"""The machine as this process may use it: its cores and its cgroups."""

import math
import os
from collections.abc import Iterator
from pathlib import Path


def available_cores(root: Path = Path('/')) -> list[int]:
  """Returns the cores that this process may run on, in order; at least one.

  Fewer than the machine has, where an affinity mask, or the quota of a cgroup
  (of a container or a job), leaves it fewer.

  Args:
    root: where `proc` and `sys` are.
  """
  if hasattr(os, 'sched_getaffinity'):
    cores = sorted(os.sched_getaffinity(0))
  else:
    cores = list(range(os.cpu_count() or 1))
  quota = min(_quotas(root), default=math.inf)
  return cores if quota >= len(cores) else cores[:max(1, math.ceil(quota))]


def cgroup_folders(root: Path, top: Path) -> list[Path]:
  """Returns the folders of this process's cgroups below `top`, and `top`."""
  file = root / 'proc/self/cgroup'
  lines = file.read_text().splitlines() if file.exists() else []
  found = {top: None}
  for line in lines:
    own = top / line.split(':', 2)[-1].strip('/')
    found |= dict.fromkeys(path for path in (own, *own.parents)
                           if path.is_relative_to(top))
  return [folder for folder in found if folder.is_dir()]


def number(file: Path) -> int | None:
  """Returns the number in a file of the system's; None: none, or no limit."""
  text = file.read_text().strip() if file.exists() else ''
  return int(text) if text.isdigit() else None


def _quotas(root) -> Iterator[float]:
  """In cores: of cgroups of version 2, then of version 1."""
  for folder in cgroup_folders(root, root / 'sys/fs/cgroup'):
    file = folder / 'cpu.max'
    quota, period, *_ = [*(file.read_text().split() if file.exists() else ()),
                         'max', 'max']
    if quota.isdigit() and period.isdigit():
      yield int(quota) / int(period)
  for folder in cgroup_folders(root, root / 'sys/fs/cgroup/cpu'):
    quota = number(folder / 'cpu.cfs_quota_us')  # -1: no limit
    period = number(folder / 'cpu.cfs_period_us')
    if quota and period:
      yield quota / period
