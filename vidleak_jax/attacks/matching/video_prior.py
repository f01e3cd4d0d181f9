"""How likely a clip is as a video, by differences of a size that it shows.

Differences of rows, of columns and of frames along the motion are small but at
few places, in colour smaller than in brightness: they follow a Laplace
distribution. Its scales differ from clip to clip; they are read off the guess
(empirical Bayes), so that there is no weight to choose for each kind.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from vidleak_jax.attacks.matching import motion
from vidleak_jax.types import Array

# One pixel counts in several differences that know of each other.
WEIGHT = 0.5    # of the prior beside a likelihood
_CORNER = 0.05  # of a mean difference, below which a length is quadratic
_LEAST = 2e-3   # mean difference: half a level of video
_REACH = 0.1    # motion in a frame that is followed, of the shorter side
# Brightness, red against green, both against blue: an orthonormal basis.
_OPPONENT = np.array([[1, 1, 1], [1, -1, 0], [1, 1, -2]]).T / np.sqrt([3, 2, 6])


class Shown(NamedTuple):
  """What a guess shows of its video; constants of a step."""
  flow: Array | None  # [B, T - 1, H, W, 2] of `motion.estimate`
  # [1, 1, 1, 1, C] mean differences: of frames, rows, columns
  scales: tuple[Array, ...]


def measure(clips: Array) -> Shown:
  """Returns motion and mean differences of clips [B, T, H, W, C]."""
  clips = lax.stop_gradient(clips)
  reach = round(_REACH * min(clips.shape[2:4]))
  moves = reach and clips.shape[1] > 1
  flow = motion.estimate(clips, reach) if moves else None
  sizes = (jnp.mean(jnp.abs(d), (0, 1, 2, 3), keepdims=True)
           for d in _differences(flow, clips))
  return Shown(flow, tuple(size + _LEAST for size in sizes))


def differences(shown: Shown, clips: Array) -> tuple[Array, ...]:
  """Returns differences [..., C] over their mean; linear in the clips."""
  return tuple(d / scale for d, scale in zip(
      _differences(shown.flow, clips), shown.scales, strict=True))


def lengths(difference: Array) -> Array:
  """Returns [..., 1]: the colours of a video share their edges."""
  return jnp.sqrt(jnp.sum(difference ** 2, -1, keepdims=True) + _CORNER ** 2)


def energy(shown: Shown, clips: Array) -> Array:
  """Returns the negative logarithm of the prior, up to a constant."""
  return WEIGHT * sum(jnp.sum(lengths(d)) for d in differences(shown, clips))


def _differences(flow, clips):
  if clips.shape[-1] == 3:
    clips = clips @ jnp.asarray(_OPPONENT, clips.dtype)
  before = clips[:, :-1] if flow is None else motion.follow(clips, flow)
  kinds = (clips[:, 1:] - before, jnp.diff(clips, axis=2),
           jnp.diff(clips, axis=3))
  return [d for d in kinds if d.size]  # a single frame has no motion
