"""Motion between the frames of a guess, and frames moved along it.

Frames of video show the same things, a little further. Where a guess is near
enough to tell how far, its frames say what each other should be.
"""

import jax.numpy as jnp
from jax import lax

from vidleak_jax.types import Array

_WINDOW = 5    # pixels of a side that move together
_PARTS = 4     # of a pixel, to which motion is told
_STILL = 1e-3  # cost of a pixel's motion: what shows nothing stands still


def estimate(clips: Array, reach: int) -> Array:
  """Returns how far each pixel has come since the frame before.

  Each window takes the shift that suits it best, of all there are.

  Args:
    clips: [B, T, H, W, C] in [0, 1].
    reach: pixels a frame, in each direction, at most.

  Returns:
    [B, T - 1, H, W, 2]: where in the frame before a pixel is found, rows and
    columns from its own place; no derivative.
  """
  clips = lax.stop_gradient(clips)
  after = clips[:, 1:]
  side = reach + 1, reach + 2
  wide = jnp.pad(clips[:, :-1], ((0, 0), (0, 0), side, side, (0, 0)), 'edge')
  phases = [_cubic(jnp.float32(i / _PARTS)) for i in range(_PARTS)]
  between = jnp.stack([jnp.stack([
      _filtered(_filtered(wide, rows, 2), columns, 3)
      for columns in phases]) for rows in phases])

  def try_shift(best, candidate):
    least, flow = best
    whole, part = candidate // _PARTS, candidate % _PARTS
    before = lax.dynamic_slice(
        between, (*part, 0, 0, *(whole + reach), 0), (1, 1, *after.shape))[0, 0]
    shift = candidate.astype(clips.dtype) / _PARTS
    cost = lax.reduce_window(
        jnp.abs(after - before).sum(-1), 0.0, lax.add,
        (1, 1, _WINDOW, _WINDOW), (1,) * 4, 'SAME'
    ) + _WINDOW ** 2 * _STILL * jnp.sqrt(jnp.sum(shift ** 2))
    better = cost < least
    return (jnp.where(better, cost, least),
            jnp.where(better[..., None], jnp.broadcast_to(shift, flow.shape),
                      flow)), None

  ends = jnp.arange(-reach * _PARTS, reach * _PARTS + 1)
  candidates = jnp.stack(jnp.meshgrid(ends, ends, indexing='ij'), -1)
  start = (jnp.full(after.shape[:-1], jnp.inf, clips.dtype),
           jnp.zeros((*after.shape[:-1], 2), clips.dtype))
  (_, flow), _ = lax.scan(try_shift, start, candidates.reshape(-1, 2))
  return flow


def _filtered(frames, taps, axis):
  """Between each sample but the first and the last two and the next."""
  length = frames.shape[axis] - 3
  return sum(tap * lax.slice_in_dim(frames, i, i + length, axis=axis)
             for i, tap in enumerate(taps))


def follow(clips: Array, flow: Array) -> Array:
  """Returns the frames before, as `flow` brings them on; linear in the clips.

  Between pixels it is cubic (Keys, 1981, a = -1/2); beyond the border, the
  border.

  Args:
    clips: [B, T, H, W, C].
    flow: [B, T - 1, H, W, 2] of `estimate`.

  Returns:
    [B, T - 1, H, W, C], to compare with the frames after the first.
  """
  batch, length, height, width, _ = clips.shape
  places = jnp.stack(jnp.meshgrid(
      jnp.arange(height), jnp.arange(width), indexing='ij'), -1)[None, None]
  places += flow
  corner = jnp.floor(places)
  parts = _cubic(places - corner)  # [4, ..., 2]
  corner = corner.astype(int)
  items = (jnp.arange(batch)[:, None, None, None],
           jnp.arange(length - 1)[None, :, None, None])
  moved = 0.0
  for y in range(4):
    row = jnp.clip(corner[..., 0] + y - 1, 0, height - 1)
    for x in range(4):
      column = jnp.clip(corner[..., 1] + x - 1, 0, width - 1)
      moved += (parts[y, ..., 0] * parts[x, ..., 1])[..., None] * clips[
          (*items, row, column)]
  return moved


def _cubic(t):
  """The weights of four neighbours for a place t in [0, 1) past the second."""
  return jnp.stack([((2 - t) * t - 1) * t / 2, ((3 * t - 5) * t * t + 2) / 2,
                    ((4 - 3 * t) * t + 1) * t / 2, (t - 1) * t * t / 2])
