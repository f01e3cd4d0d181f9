"""All device code: the only pmap.

A tree has leaves [N, ...] on the host and [D, N / D, ...] on D devices.
Auto-sharded jit is wrong here: it sums the restarts' weight gradients.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vidleak_jax.types import UserError

_AXIS = 'devices'


def pick_devices(count: int = 0) -> list[jax.Device]:
  """The first `count` local devices; 0 means all of them.

  Raises:
    UserError: when the machine has fewer.
  """
  devices = jax.local_devices()
  if not 0 <= count <= len(devices):
    raise UserError(f'backend.num_devices={count}, but {len(devices)} '
                    f'{devices[0].platform} device(s) are here; 0 takes all.')
  return devices[:count or None]


def padded(count: int, devices: Sequence[jax.Device]) -> int:
  """`count` rounded up to a multiple of the number of devices."""
  return -(-count // len(devices)) * len(devices)


def spread(tree: Any, devices: Sequence[jax.Device]) -> Any:
  """Places leaves [N, ...], N a multiple of D, as [D, N / D, ...]."""
  def split(leaf):
    leaf = np.asarray(leaf)
    return _place(leaf.reshape(len(devices), -1, *leaf.shape[1:]), devices)
  return jax.tree.map(split, tree)


def replicate(tree: Any, devices: Sequence[jax.Device]) -> Any:
  """Places a copy on every device: leaves [D, ...]."""
  return jax.tree.map(
      lambda leaf: _place([np.asarray(leaf)] * len(devices), devices), tree)


def gather(tree: Any) -> Any:
  """The inverse of `spread`, as NumPy arrays."""
  return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]),
                      jax.device_get(tree))


def on_devices(
    fn: Callable, devices: Sequence[jax.Device], donate: Sequence[int] = ()
) -> Callable:
  """`fn` on every device; arguments come from `spread` or `replicate`."""
  return jax.pmap(fn, axis_name=_AXIS, devices=list(devices),
                  donate_argnums=tuple(donate))


def _place(parts, devices):
  """One part a device, placed just as a pmapped function returns its results.

  Otherwise the second call of a step would not find the first one's executable.
  """
  sharding = NamedSharding(
      Mesh(np.asarray(devices), (_AXIS,)), PartitionSpec(_AXIS))
  arrays = [jax.device_put(part[None], device)
            for part, device in zip(parts, devices)]
  shape = (len(devices), *arrays[0].shape[1:])
  return jax.make_array_from_single_device_arrays(shape, sharding, arrays)
