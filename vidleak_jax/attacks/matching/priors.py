"""Priors: how unlike a natural clip a guess is, without the gradient.

Each is `(guess, target) -> []`, 0 for a still clip of one colour, with a finite
gradient everywhere. To add one, write it and its row in `PRIORS`: its weight is
then the option `priors.NAME` of every attack that iterates.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from vidleak_jax.types import Array, Guess, Target

_REACH = 2   # pixels a frame, in each direction, that motion may take
_WINDOW = 3  # pixels of a side that move together


def spatial_tv(guess: Guess, target: Target) -> Array:
  """Total variation over height and width, mean absolute difference each."""
  del target
  return _variation(guess.clips, 2) + _variation(guess.clips, 3)


def temporal_tv(guess: Guess, target: Target) -> Array:
  """Total variation over time: mean absolute difference of frames."""
  del target
  return _variation(guess.clips, 1)


def colour_tv(guess: Guess, target: Target) -> Array:
  """Spatial total variation of the differences between colours.

  Edges of natural images are edges of all colours at once.
  """
  del target
  clips = guess.clips - jnp.roll(guess.clips, 1, axis=-1)
  return _variation(clips, 2) + _variation(clips, 3)


def motion_tv(guess: Guess, target: Target) -> Array:
  """Mean absolute difference from the frame before, motion compensated.

  Each window of a frame counts with the shift that suits it best.
  """
  del target
  before, after = guess.clips[:, :-1], guess.clips[:, 1:]
  height, width = after.shape[2:4]
  reach = (_REACH, _REACH)
  wide = jnp.pad(before, ((0, 0), (0, 0), reach, reach, (0, 0)), 'edge')
  shifts = range(2 * _REACH + 1)
  apart = jnp.stack([
      jnp.abs(after - wide[:, :, y:y + height, x:x + width]).mean(-1)
      for y in shifts for x in shifts])
  windows = lax.reduce_window(
      apart, 0.0, lax.add, (1, 1, 1, _WINDOW, _WINDOW), (1,) * 5, 'SAME')
  return jnp.sum(windows.min(0)) / (_WINDOW ** 2 * max(1, after[..., 0].size))


def _variation(clips, axis):
  if clips.shape[axis] == 1:
    return jnp.zeros(())
  return jnp.mean(jnp.abs(jnp.diff(clips, axis=axis)))


class Prior(NamedTuple):
  """A row of the table of priors."""
  term: Callable[[Guess, Target], Array]
  help: str
  weight: float = 0.0  # by default


PRIORS = {
    'spatial_tv': Prior(spatial_tv, 'total variation in space', 0.01),
    'temporal_tv': Prior(temporal_tv, 'total variation in time', 0.01),
    'colour_tv': Prior(colour_tv, 'total variation between colours', 0.03),
    'motion_tv': Prior(motion_tv, 'change along the motion'),
}
