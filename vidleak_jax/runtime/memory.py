"""Memory: what is free, what restarts will need, and how many would fit.

Estimates come from shapes alone, before anything is allocated or compiled, so
that a run which is too large is refused at once and not killed by the system.
"""

import bisect
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from vidleak_jax.runtime import host
from vidleak_jax.types import UserError

# Of all restarts' states, on the host: as started, as restored or gathered, as
# placed, and as a checkpoint writes it.
_HOST_COPIES = 4
# Of the states on a device: those that go into a chunk and those that come out.
_DEVICE_COPIES = 2
_UNLIMITED = 2**60  # how cgroups say that there is no limit


class Needs(NamedTuple):
  """Bytes that an attack needs; all are estimates."""
  state: int    # of one restart: clips, labels, the optimizer's memory
  working: int  # of one restart during a step, released after it
  shared: int   # on each device once: weights and updates


class Total(NamedTuple):
  """Bytes needed by all restarts."""
  device: int  # on the fullest device
  host: int    # in the host's memory, besides CPU devices


def total(needs: Needs, num_rows: int, num_devices: int, batch_size: int
          ) -> Total:
  """Returns what `num_rows` restarts need together.

  Args:
    needs: of one restart.
    num_rows: restarts of all messages, padding included.
    num_devices: that share the rows evenly.
    batch_size: restarts that are vmapped together on one device.
  """
  share = -(-num_rows // num_devices)
  together = min(share, batch_size)
  device = (needs.shared + share * needs.state * _DEVICE_COPIES
            + together * needs.working)
  return Total(device, num_rows * needs.state * _HOST_COPIES + needs.shared)


def check(
    needs: Needs, *, num_restarts: int, rows_of: Callable[[int], int],
    devices: Sequence[jax.Device], batch_size: int,
) -> None:
  """Refuses what does not fit.

  Args:
    needs: of one restart.
    num_restarts: of each message, as the user asked for.
    rows_of: from a number of restarts to that of rows, see `total`.
    devices: of this process and of others.
    batch_size: restarts that are vmapped together on one device.

  Raises:
    UserError: says the estimate, what is free and how many restarts would fit.
  """
  own = [d for d in devices if d.process_index == jax.process_index()]
  on_host = own[0].platform == 'cpu'
  free_host = host_free()
  free_device = None if on_host else device_free(own)

  def excess(count):
    """(where it does not fit, bytes needed, bytes free), or nothing."""
    need = total(needs, rows_of(count), len(devices), batch_size)
    here = need.host + (need.device * len(own) if on_host else 0)
    if free_host is not None and here > free_host:
      return 'the memory of this machine', here, free_host
    if free_device is not None and need.device > free_device:
      return f'the memory of {own[0].device_kind}', need.device, free_device
    return None

  found = excess(num_restarts)
  if found:
    where, need, free = found
    fits = bisect.bisect_left(
        range(1, num_restarts + 1), True, key=lambda n: excess(n) is not None)
    advice = (f'About {fits} would fit: set attack.num_restarts={fits}'
              if fits else 'Not even one fits: take fewer or smaller clips')
    raise UserError(
        f'attack.num_restarts={num_restarts} needs about {_gigabytes(need)} of '
        f'{where}, where {_gigabytes(free)} are free. {advice}, or use more '
        'devices.')


def require(num_bytes: int, what: str, advice: str) -> None:
  """Raises UserError where the host's memory does not hold so much.

  Args:
    num_bytes: an estimate.
    what: needs them, for the message.
    advice: what to change, a sentence.
  """
  free = host_free()
  if free is not None and num_bytes > free:
    raise UserError(f'{what} need about {_gigabytes(num_bytes)} of memory, '
                    f'where {_gigabytes(free)} are free. {advice}')


def device_free(devices: Sequence[jax.Device]) -> int | None:
  """Returns what is free on the fullest device; None where it does not say."""
  free = []
  for device in devices:
    stats = device.memory_stats() or {}
    if 'bytes_limit' in stats:
      free.append(stats['bytes_limit'] - stats.get('bytes_in_use', 0))
  return min(free, default=None)


def host_free(root: Path = Path('/')) -> int | None:
  """Returns what this process may still take: of the machine and its cgroup.

  Args:
    root: where `proc` and `sys` are.

  Returns:
    Bytes; None where the system tells nothing.
  """
  limits = [*_machine_free(root), *_cgroup_free(root)]
  return min(limits, default=None)


def tree_bytes(tree: Any) -> int:
  """Returns the size of all arrays, or of what stands for them, in a tree."""
  return sum(math.prod(np.shape(leaf)) * _itemsize(leaf)
             for leaf in jax.tree.leaves(tree))


def working_bytes(fn: Callable, *args: Any) -> int:
  """Returns the most that `fn` holds at once besides its arguments.

  From its jaxpr, with each value released after its last use. XLA fuses some
  operations and copies others: for a step of C3D its own account, `temp` of
  `compiled.memory_analysis()`, was 0.7 of this at 8x32x32 (1.5 at 4x16x16,
  where it is small), alone or with 4 vmapped.

  Args:
    fn: any function that JAX traces.
    *args: arrays or `jax.ShapeDtypeStruct`.
  """
  return _peak(jax.make_jaxpr(fn)(*args).jaxpr)


def _peak(jaxpr) -> int:
  """The most bytes that live between the equations of a jaxpr."""
  kept = {id(v) for v in (*jaxpr.invars, *jaxpr.constvars, *jaxpr.outvars)}
  last = {id(v): i for i, eqn in enumerate(jaxpr.eqns) for v in eqn.invars}
  live = peak = 0
  for i, eqn in enumerate(jaxpr.eqns):
    live += sum(map(_var_bytes, eqn.outvars))
    inner = max((_peak(sub) for sub in _sub_jaxprs(eqn)), default=0)
    peak = max(peak, live + inner)
    for var in {id(v): v for v in (*eqn.invars, *eqn.outvars)}.values():
      made_here = id(var) not in kept and not hasattr(var, 'val')
      if made_here and last.get(id(var), i) == i:
        live -= _var_bytes(var)
  return peak


def _sub_jaxprs(eqn) -> Iterator[Any]:
  for value in eqn.params.values():
    for each in value if isinstance(value, tuple | list) else (value,):
      each = getattr(each, 'jaxpr', each)  # a closed one holds another
      if hasattr(each, 'eqns'):
        yield each


def _var_bytes(var) -> int:
  return tree_bytes(var.aval) if hasattr(var.aval, 'shape') else 0


def _itemsize(leaf) -> int:
  dtype = getattr(leaf, 'dtype', None)
  return getattr(dtype, 'itemsize', 4) if dtype is not None else 4


def _machine_free(root) -> Iterator[int]:
  file = root / 'proc/meminfo'
  if file.exists():
    for line in file.read_text().splitlines():
      if line.startswith('MemAvailable:'):
        yield int(line.split()[1]) * 1024
  elif 'SC_PHYS_PAGES' in os.sysconf_names:
    yield os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')


def _cgroup_free(root) -> Iterator[int]:
  """Of version 2 and 1, what each group above this process leaves it."""
  for top, limit, used in (
      (root / 'sys/fs/cgroup', 'memory.max', 'memory.current'),
      (root / 'sys/fs/cgroup/memory', 'memory.limit_in_bytes',
       'memory.usage_in_bytes')):
    for folder in host.cgroup_folders(root, top):
      most, taken = (host.number(folder / name) for name in (limit, used))
      if most is not None and most < _UNLIMITED:
        yield max(0, most - (taken or 0) + _cached(folder / 'memory.stat'))


def _cached(file) -> int:
  """Bytes of files that the system would drop before it kills anybody."""
  lines = file.read_text().splitlines() if file.exists() else []
  values = dict(line.split()[:2] for line in lines)
  return int(values.get('total_inactive_file',
                        values.get('inactive_file', 0)))


def _gigabytes(count) -> str:
  return f'{count / 2**30:.3g} GiB'
