"""Detail from frames that the attacker holds, where they show the same thing.

Each reference is shrunk and enlarged as the recovery was, which tells what the
network misses in it. Where a patch of the enlarged recovery looks like a patch
of an enlarged reference, what was missed there is added here (in the spirit of
patch-match super-resolution, 1804.03360, in pixels instead of features).
Patches are sought in all of every reference, so cameras may move between them.
"""

import jax
import jax.numpy as jnp
import numpy as np

from vidleak_jax.types import Array, UserError

PATCH = 16   # pixels of a patch's side
GRID = 4     # pixels between the patches that are sought
THIN = 2     # every other pixel is compared: enlarged frames are smooth
# Detail counts by 1 / (1 + distance / TRUST), distance being the mean squared
# difference of the enlarged patches. On three `photo_motion` clips 0.003 loses
# 0.4 dB with one reference and 0.9 with five, 0.024 gains at most 0.2.
TRUST = 0.012
# The same of a recovery that is replaced. After `ig`, 0.012 costs a clip that
# its reference hardly shows 1.1 dB more, and gains others 0.1 on the mean.
REPLACED = 0.004
_SHARPNESS = 1.0  # how fast worse matches among the references lose weight
_FLOOR = 1e-4     # distances below are equally good


def transfer(frames: Array, references: Array, seen: Array, *,
             replace: float = 0.0) -> np.ndarray:
  """Adds what the references know to an enlarged clip.

  The cost is that of comparing all patches with all: it grows with the square
  of a frame's area. Memory is bounded, a row of patches at a time.

  Args:
    frames: [T, H, W, C] in [0, 1], enlarged; sides at least PATCH.
    references: [R, H', W', C] in [0, 1], as they are.
    seen: same shape: the references shrunk, and enlarged as the frames were.
    replace: 0 only adds to a patch what was missed in its match; 1 replaces
      the patch besides, which mends coarse errors of a recovery too.

  Returns:
    float32 [T, H, W, C] in [0, 1].

  Raises:
    UserError: where the memory does not hold all patches of the references.
  """
  references, seen = jnp.asarray(references), jnp.asarray(seen)
  missed = references - seen
  try:
    keys = _keys(seen)
    return np.stack([np.asarray(_transfer(jnp.asarray(frame), keys, seen,
                                          missed, replace))
                     for frame in frames])
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    raise UserError(
        f'Out of memory at all patches of {len(seen)} references of '
        f'{seen.shape[1]}x{seen.shape[2]}. Give fewer of them.') from error


@jax.jit
def _keys(seen):
  """All patches of the enlarged references, [R, rows, columns, D]."""
  sides = [range(0, n - PATCH + 1) for n in seen.shape[1:3]]
  return jax.vmap(lambda image: _patches(image, *map(list, sides)))(seen)


@jax.jit
def _transfer(frame, keys, seen, missed, replace):
  height, width = frame.shape[:2]
  tops, lefts = _grid(height), _grid(width)
  flat = keys.reshape(keys.shape[0], -1, keys.shape[-1])
  norms = jnp.sum(flat ** 2, -1)

  def row(top):
    queries = _patches(frame, top[None], lefts)[0]
    return jax.lax.map(
        lambda ref: _best(queries, *ref), (flat, norms))

  distance, index = jax.lax.map(row, jnp.array(tops))  # [rows, R, columns]
  ys, xs = jnp.divmod(index, keys.shape[2])
  which = jnp.arange(len(keys))[None, :, None]
  patch = jnp.arange(PATCH)
  pixels = (which[..., None, None], ys[..., None, None] + patch[:, None],
            xs[..., None, None] + patch)  # [rows, R, columns, P, P]
  nearest = distance.min(1, keepdims=True)
  weight = jnp.exp(-_SHARPNESS * (distance - nearest) / (nearest + _FLOOR))
  weight /= weight.sum(1, keepdims=True)
  apart = jnp.sum(weight * distance, 1)[..., None, None, None]
  detail, coarse = (jnp.einsum('yrx,yrxijc->yxijc', weight, image[pixels])
                    for image in (missed, seen))
  rows = (jnp.array(tops)[:, None] + patch)[:, None, :, None]
  columns = (jnp.array(lefts)[:, None] + patch)[None, :, None, :]
  detail *= TRUST / (TRUST + apart)
  detail += (coarse - frame[rows, columns]) * (
      replace * REPLACED / (REPLACED + apart))
  bump = jnp.hanning(PATCH + 2)[1:-1]
  window = (bump[:, None] * bump)[..., None]
  total = jnp.zeros_like(frame).at[rows, columns].add(detail * window)
  cover = jnp.zeros((height, width, 1)).at[rows, columns].add(window)
  return jnp.clip(frame + total / cover, 0, 1)


def _best(queries, keys, norms):
  """The nearest key of each query: mean squared difference, and index."""
  distance = (jnp.sum(queries ** 2, -1)[:, None] + norms
              - 2 * queries @ keys.T)
  index = jnp.argmin(distance, 1)
  least = jnp.take_along_axis(distance, index[:, None], 1)[:, 0]
  return jnp.maximum(least, 0) / queries.shape[-1], index


def _patches(image, tops, lefts):
  """[len(tops), len(lefts), D]: thinned patches of an image [H, W, C]."""
  thin = jnp.arange(0, PATCH, THIN)
  rows = jnp.asarray(tops)[:, None] + thin
  columns = jnp.asarray(lefts)[:, None] + thin
  found = image[rows[:, None, :, None], columns[None, :, None, :]]
  return found.reshape(*found.shape[:2], -1)


def _grid(length):
  """Where patches begin: every GRID pixels, the last flush with the border."""
  return [*range(0, length - PATCH, GRID), length - PATCH]
