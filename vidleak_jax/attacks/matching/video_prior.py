"""How likely a clip is as a video, by differences of a size that it shows.

Differences of rows, of columns and of frames along the motion are small but at
few places, in colour smaller than in brightness: they follow a Laplace
distribution. Its scales differ from clip to clip; they are read off the guess
(empirical Bayes), so that there is no weight to choose for each kind.

A guess behind strong noise is smoother than its clip, and scales read off it
would smooth the next guess still more. Samples of what the noise leaves open of
a natural video, whose scales no guess has spoilt, mend that: as far as they
spread, lengths are roots of expected squares, and the mean difference of
natural videos adds to the guess's.
"""

from typing import NamedTuple

import jax
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
_WINDOW = 3     # pixels of a side that are open alike
_HALF_OPEN = 0.2  # of squared natural differences: samples count half
_PLACES = 0, 1, 2, 3
# Mean differences of the train split of `photo_motion`: of frames, rows and
# columns, in brightness and in colour.
_NATURAL = (0.02, 0.0015), (0.11, 0.008), (0.12, 0.008)
# Brightness, red against green, both against blue: an orthonormal basis.
_OPPONENT = np.array([[1, 1, 1], [1, -1, 0], [1, 1, -2]]).T / np.sqrt([3, 2, 6])


class Shown(NamedTuple):
  """What a guess shows of its video; constants of a step."""
  flow: Array | None  # [B, T - 1, H, W, 2] of `motion.estimate`
  # [1, 1, 1, 1, C] mean differences: of frames, rows, columns
  scales: tuple[Array, ...]
  # [..., 1] of differences over their scales; 0 where the guess is certain.
  # Where noise leaves little open they hardly count: edges are seen.
  variances: tuple[Array | float, ...]


def measure(clips: Array, deviations: Array | None = None) -> Shown:
  """Returns what a guess shows of its video.

  Args:
    clips: [B, T, H, W, C], the guess.
    deviations: [S, B, T, H, W, C] samples of what is left open about a natural
      video, see `natural_weights`; None for a guess that is certain.
  """
  clips = lax.stop_gradient(clips)
  reach = round(_REACH * min(clips.shape[2:4]))
  moves = reach and clips.shape[1] > 1
  flow = motion.estimate(clips, reach) if moves else None
  seen = _differences(flow, clips)
  sizes = [jnp.mean(jnp.abs(d), _PLACES, keepdims=True) for d in seen]
  if deviations is None:
    return Shown(flow, tuple(size + _LEAST for size in sizes),
                 (0.0,) * len(seen))
  squares = [_local_mean(jnp.mean(d ** 2, 0)) for d in jax.vmap(
      lambda each: _differences(flow, each))(deviations)]
  naturals = tuple(_natural(clips))
  shares = [_open_share(square, natural)
            for square, natural in zip(squares, naturals, strict=True)]
  scales = tuple(
      size + share * natural + _LEAST for size, share, natural in zip(
          sizes, shares, naturals, strict=True))
  variances = tuple(
      share * jnp.sum(square / scale ** 2, -1, keepdims=True)
      for share, square, scale in zip(shares, squares, scales, strict=True))
  return Shown(flow, scales, variances)


def differences(shown: Shown, clips: Array) -> tuple[Array, ...]:
  """Returns differences [..., C] over their mean; linear in the clips."""
  return tuple(d / scale for d, scale in zip(
      _differences(shown.flow, clips), shown.scales, strict=True))


def lengths(shown: Shown, differences: tuple[Array, ...]) -> list[Array]:
  """Returns lengths [..., 1]: the colours of a video share their edges.

  Where a guess is not certain, the variances of `shown` count as well.
  """
  return [jnp.sqrt(jnp.sum(d ** 2, -1, keepdims=True) + v + _CORNER ** 2)
          for d, v in zip(differences, shown.variances, strict=True)]


def natural_weights(shown: Shown, clips: Array) -> list[Array]:
  """Returns weights of squared `differences`, of the sizes natural videos have.

  For samples of what is left open: a guess that is too smooth, or its scales,
  would say that nothing is.
  """
  return [WEIGHT * (scale / natural) ** 2 for scale, natural in zip(
      shown.scales, _natural(clips), strict=True)]


def energy(shown: Shown, clips: Array) -> Array:
  """Returns the negative logarithm of the prior, up to a constant."""
  return WEIGHT * sum(jnp.sum(each) for each in lengths(
      shown, differences(shown, clips)))


def _differences(flow, clips):
  if clips.shape[-1] == 3:
    clips = clips @ jnp.asarray(_OPPONENT, clips.dtype)
  before = clips[:, :-1] if flow is None else motion.follow(clips, flow)
  kinds = (clips[:, 1:] - before, jnp.diff(clips, axis=2),
           jnp.diff(clips, axis=3))
  return [d for d in kinds if d.size]  # a single frame has no motion


def _natural(clips):
  """[1, 1, 1, 1, C] of each kind of difference that the clips have."""
  others = clips.shape[-1] - 1
  for (brightness, colour), length in zip(
      _NATURAL, clips.shape[1:4], strict=True):
    if length > 1:
      # Channels that are not three are not taken apart into colours.
      yield jnp.array(
          [brightness] + others * [colour if others == 2 else brightness],
          clips.dtype).reshape(1, 1, 1, 1, -1)


def _open_share(squares, natural):
  """[]: of the squared differences of natural videos, what is left open."""
  left = jnp.mean(jnp.sum(squares, -1))
  return left / (left + _HALF_OPEN * jnp.sum(natural ** 2))


def _local_mean(values):
  """Means over windows of [B, T, H, W, C]: few samples are not enough."""
  side = _WINDOW // 2, _WINDOW // 2
  wide = jnp.pad(values, ((0, 0), (0, 0), side, side, (0, 0)), 'edge')
  return lax.reduce_window(
      wide, 0.0, lax.add, (1, 1, _WINDOW, _WINDOW, 1), (1,) * 5, 'VALID'
  ) / _WINDOW ** 2
