"""Priors: how unlike a natural clip a guess is, without the gradient.

Each is `(guess, leak) -> []`, 0 for a still clip of one colour, with a finite
gradient everywhere.
"""

import jax.numpy as jnp

from vidleak_jax.types import Array, Guess, Leak


def spatial_tv(guess: Guess, leak: Leak) -> Array:
  """Total variation over height and width, mean absolute difference each."""
  del leak
  return _variation(guess.clips, 2) + _variation(guess.clips, 3)


def temporal_tv(guess: Guess, leak: Leak) -> Array:
  """Total variation over time: mean absolute difference of frames."""
  del leak
  return _variation(guess.clips, 1)


def _variation(clips, axis):
  if clips.shape[axis] == 1:
    return jnp.zeros(())
  return jnp.mean(jnp.abs(jnp.diff(clips, axis=axis)))


PRIORS = {
    'spatial_tv': spatial_tv,
    'temporal_tv': temporal_tv,
}
