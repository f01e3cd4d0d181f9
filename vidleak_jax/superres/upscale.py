"""Enlarges clips of any size by overlapping tiles, in bounded memory."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from vidleak_jax.runtime import parallel
from vidleak_jax.superres import degrade
from vidleak_jax.superres.network import Network
from vidleak_jax.types import Array, Params, UserError


def bicubic(clips: Array, scale: int) -> np.ndarray:
  """Enlarges [..., H, W, C] in [0, 1] without a network: see `degrade.resize`.

  Returns:
    float32 [..., scale H, scale W, C] in [0, 1].
  """
  height, width = (scale * n for n in clips.shape[-3:-1])
  large = degrade.resize(jnp.asarray(clips, jnp.float32), height, width)
  return np.asarray(jnp.clip(large, 0, 1))


def upscale(
    network: Network, params: Params, clips: Array, *, noise: float = 0.0,
    tile: int = 128, overlap: int = 16, batch_size: int = 4,
    devices: Sequence[jax.Device] | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> np.ndarray:
  """Enlarges clips [N, T, H, W, C] in [0, 1].

  Frames larger than a tile are cut into tiles that overlap; each pixel is taken
  from the tile in which it lies deepest, so tiles leave no seam as long as the
  overlap covers what the network sees.

  Args:
    network: of `network.load`.
    params: its params.
    clips: T frames of one scene each; the first and last are repeated where a
      window reaches beyond them.
    noise: standard deviation of the frames' errors; 0 for true frames.
    tile: side of a tile, in small pixels.
    overlap: small pixels of context on every side of a tile.
    batch_size: tiles that a device computes at once.
    devices: one by default.
    report: called with tiles done and in all.

  Returns:
    float32 [N, T, scale H, scale W, C] in [0, 1].

  Raises:
    UserError: for clips of another rank, colours or range, a noise below 0,
      tiles that are all overlap, or where the memory does not suffice.
  """
  clips, channels = checked(clips, network), network.module.channels
  if not 0 <= noise < np.inf or batch_size < 1:
    raise UserError(f'noise={noise} must be 0 or more, and '
                    f'batch_size={batch_size} at least 1.')
  if not 0 <= 2 * overlap < tile:
    raise UserError(f'A tile of {tile} pixels must be larger than its overlaps,'
                    f' 2 x {overlap}.')
  devices = devices or jax.local_devices()[:1]
  n, t, h, w, _ = clips.shape
  size = min(tile, h), min(tile, w)
  run = _compiled(network, tuple(devices))
  shared = parallel.replicate(params, devices)
  out = np.empty((n, t, network.scale * h, network.scale * w, channels),
                 np.float32)
  jobs = [(i, j, y, x) for i in range(n) for j in range(t)
          for y in _starts(h, size[0], overlap)
          for x in _starts(w, size[1], overlap)]
  step = batch_size * len(devices)
  for at in range(0, len(jobs), step):
    batch = jobs[at:at + step]
    full = batch + batch[-1:] * (step - len(batch))  # one shape, one compile
    windows = np.stack([_window(clips, job, size, network.frames)
                        for job in full])
    levels = np.full(step, noise, np.float32)
    try:
      tiles = parallel.gather(run(shared, *parallel.spread(
          (windows, levels), devices)))
    except jax.errors.JaxRuntimeError as error:
      if 'RESOURCE_EXHAUSTED' not in str(error):
        raise
      raise UserError(
          f'Out of memory at tiles of {size[0]}x{size[1]}, {batch_size} at '
          'once. Choose a smaller tile or batch_size.') from error
    for job, enlarged in zip(batch, tiles):
      _place(out, job, enlarged, (h, w), size, overlap, network.scale)
    report(at + len(batch), len(jobs))
  return out


def checked(clips: Array, network: Network) -> np.ndarray:
  """The clips as float32, or a UserError that says what is wrong with them."""
  clips = np.asarray(clips, np.float32)
  channels = network.module.channels
  if clips.ndim != 5 or clips.shape[-1] != channels or not clips.size:
    raise UserError(f'Clips must be [N, T, H, W, {channels}] for these weights,'
                    f' got {clips.shape}.')
  if not (clips.min() >= 0 and clips.max() <= 1):  # refuses NaN too
    raise UserError(f'Clips must lie in [0, 1], got [{clips.min():.6g}, '
                    f'{clips.max():.6g}].')
  return clips


@functools.lru_cache(maxsize=8)
def _compiled(network, devices):
  def enlarge(params, windows, noise):
    return jnp.clip(network.apply(params, windows, noise), 0, 1)
  return parallel.on_devices(enlarge, devices)


def _starts(length, size, overlap):
  """Where tiles begin: even steps, the last one flush with the border."""
  if length == size:
    return [0]
  count = -(-(length - 2 * overlap) // (size - 2 * overlap))
  return [round(i * (length - size) / (count - 1)) for i in range(count)]


def _window(clips, job, size, frames):
  i, j, y, x = job
  around = np.clip(np.arange(frames) + j - frames // 2, 0, clips.shape[1] - 1)
  return clips[i, around, y:y + size[0], x:x + size[1]]


def _place(out, job, tile, full, size, overlap, scale):
  """Copies the tile without its outer half overlaps, but up to the border."""
  i, j, *start = job
  cuts = []
  for begin, length, side in zip(start, full, size):
    low = 0 if begin == 0 else overlap
    high = side if begin + side == length else side - overlap
    cuts.append((slice(scale * low, scale * high),
                 slice(scale * (begin + low), scale * (begin + high))))
  (ty, oy), (tx, ox) = cuts
  out[i, j, oy, ox] = tile[ty, tx]
