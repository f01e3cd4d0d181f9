"""All device code: the only pmap, and the only talk between processes.

A tree has leaves [N, ...] on the host and [D, N / D, ...] on D devices, each
process holding the part of its own devices. Auto-sharded jit is wrong here: it
sums the restarts' weight gradients.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vidleak_jax.types import UserError

_AXIS = 'devices'
_PIECE = 2**30  # bytes sent at once: sizes in int32 must hold them


def pick_devices(count: int = 0) -> list[jax.Device]:
  """Returns the first `count` devices of all processes; 0 means all of them.

  They are ordered by (process, id): the order in which `gather` puts the parts
  of several processes together again.

  Raises:
    UserError: when there are fewer, or not every process would have one.
  """
  devices = sorted(jax.devices(), key=_order)
  if not 0 <= count <= len(devices):
    raise UserError(f'backend.num_devices={count}, but {len(devices)} '
                    f'{devices[0].platform} device(s) are here; 0 takes all.')
  if count and jax.process_count() > 1:
    raise UserError(f'backend.num_devices={count} with {jax.process_count()} '
                    'processes. Leave it at 0: all their devices are used.')
  return devices[:count or None]


def is_leader() -> bool:
  """Whether this process is the one that reads data and writes files."""
  return jax.process_index() == 0


def share(content: bytes | None) -> bytes:
  """The leader's bytes, at every process; others pass None.

  All processes must call it.
  """
  if jax.process_count() == 1:
    return content
  from jax.experimental.multihost_utils import broadcast_one_to_all
  own = np.frombuffer(content or b'', np.uint8)
  size = _size_of(broadcast_one_to_all(_size_code(own.size)))
  if not is_leader():
    own = np.zeros(size, np.uint8)
  return b''.join(
      np.asarray(broadcast_one_to_all(own[i:i + _PIECE])).astype(
          np.uint8).tobytes() for i in range(0, size, _PIECE))


def _size_code(size: int) -> np.ndarray:
  """A size as two int32, since without x64 JAX has no larger integers."""
  return np.array(divmod(size, _PIECE), np.int32)


def _size_of(code: np.ndarray) -> int:
  pieces, rest = map(int, np.asarray(code))
  return pieces * _PIECE + rest


@contextmanager
def leading() -> Iterator[Callable[[bytes], bytes]]:
  """The leader's side of one `share`, which others await.

  Should the leader fail or have nothing to share, they get b''.
  """
  shared = []

  def share_once(content):
    shared.append(content)
    return share(content)
  try:
    yield share_once
  finally:
    if not shared:
      share(b'')


def own_part(devices: Sequence[jax.Device]) -> list[jax.Device]:
  """Those that belong to this process."""
  return [d for d in devices if d.process_index == jax.process_index()]


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
  """The inverse of `spread`, as NumPy arrays, at every process."""
  if jax.process_count() > 1:
    from jax.experimental.multihost_utils import process_allgather
    tree = process_allgather(jax.device_get(tree), tiled=True)
  return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]),
                      jax.device_get(tree))


def on_devices(
    fn: Callable, devices: Sequence[jax.Device], donate: Sequence[int] = ()
) -> Callable:
  """Returns `fn` on every device; it takes what `spread`, `replicate` give."""
  return jax.pmap(fn, axis_name=_AXIS, devices=list(devices),
                  donate_argnums=tuple(donate))


def _place(parts, devices):
  """One part a device, placed just as a pmapped function returns its results.

  Otherwise the second call of a step would not find the first one's executable.
  """
  if list(devices) != sorted(devices, key=_order):
    raise ValueError('Devices must be ordered by (process, id), as '
                     '`pick_devices` gives them: parts would be permuted.')
  own = own_part(devices)
  sharding = NamedSharding(
      Mesh(np.asarray(own), (_AXIS,)), PartitionSpec(_AXIS))
  arrays = [jax.device_put(part[None], device)
            for part, device in zip(parts, devices) if device in own]
  shape = (len(own), *arrays[0].shape[1:])
  return jax.make_array_from_single_device_arrays(shape, sharding, arrays)


def _order(device):
  return device.process_index, device.id
