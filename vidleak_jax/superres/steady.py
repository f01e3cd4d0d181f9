"""Takes the trembling out of a recovery: a mean over frames, along motion.

What an attack leaves changes from frame to frame, what was filmed moves or
stays. Every pixel is averaged with those of the neighbouring frames whose
surroundings look like its own (non-local means over time, after Buades, Coll
and Morel 2005, "Denoising image sequences does not require motion estimation").
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vidleak_jax.types import Array

REACH = 2   # frames before and after
_MOTION = 2  # pixels to each side where a surrounding is sought
_PATCH = 5   # side of a surrounding
# Surroundings that differ by this (root mean square) count e times less. Twice
# what the calmest tenth of the clip trembles by, which is next to nothing on
# true frames; from the limit on, texture that moves is mistaken for trembling.
_PER_NOISE_LEVEL, _CALM, _LIMIT = 2.0, 0.1, 0.04


def steady(clips: Array) -> np.ndarray:
  """Steadies clips [N, T, H, W, C] in [0, 1], as much as each one trembles."""
  return np.stack([np.asarray(_steady(clip)) for clip in jnp.asarray(clips)])


def noise_level(clip: Array) -> Array:
  """[] root mean square by which a clip's calm parts change between frames."""
  least = lax.map(lambda pair: _differences(*pair)[0].min(0),
                  (clip[:-1], clip[1:]))
  return jnp.sqrt(jnp.quantile(least, _CALM))


@jax.jit
def _steady(clip):
  if len(clip) == 1:
    return clip
  width = jnp.minimum(_LIMIT, _PER_NOISE_LEVEL * noise_level(clip)) ** 2 + 1e-9

  def frame(now):
    total, cover = clip[now], 1.0
    for step in (*range(-REACH, 0), *range(1, REACH + 1)):
      there = jnp.clip(now + step, 0, len(clip) - 1)
      distance, moved = _differences(clip[now], clip[there])
      share = jax.nn.softmax(-distance / width, axis=0)
      alike = jnp.exp(-jnp.sum(share * distance, 0) / width)
      alike *= there == now + step
      total += alike[..., None] * jnp.sum(share[..., None] * moved, 0)
      cover += alike[..., None]
    return jnp.clip(total / cover, 0, 1)  # means leave it by rounding

  return lax.map(frame, jnp.arange(len(clip)))


def _differences(frame, other):
  """Of every motion [M]: how surroundings differ [M, H, W], and `other` moved.
  """
  height, width, _ = frame.shape
  wide = jnp.pad(other, ((_MOTION, _MOTION), (_MOTION, _MOTION), (0, 0)),
                 'edge')
  motions = range(2 * _MOTION + 1)
  moved = jnp.stack([wide[y:y + height, x:x + width]
                     for y in motions for x in motions])
  distance = jnp.mean((moved - frame) ** 2, -1)
  room = _PATCH // 2
  distance = jnp.pad(distance, ((0, 0), (room, room), (room, room)), 'edge')
  for window in ((1, _PATCH, 1), (1, 1, _PATCH)):
    distance = lax.reduce_window(
        distance, 0.0, lax.add, window, (1, 1, 1), 'VALID') / _PATCH
  return distance, moved
