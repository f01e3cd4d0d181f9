"""How much an enlarged clip trembles."""

import numpy as np

from vidleak_jax.types import Array, UserError


def flicker(clips: Array, truth: Array) -> float | None:
  """Mean absolute second difference, in time, of the error.

  The truth's own motion drops out, and an error that stays, or that grows
  evenly, does not count: only what changes its mind from frame to frame.

  Args:
    clips: [N, T, H, W, C] in [0, 1].
    truth: same shape.

  Returns:
    0 for no flicker; None below 3 frames, where it is undefined.
  """
  clips, truth = np.asarray(clips), np.asarray(truth)
  if clips.shape != truth.shape or clips.ndim != 5:
    raise UserError('Clips must be [N, T, H, W, C] of equal shapes, got '
                    f'{clips.shape} and {truth.shape}.')
  if clips.shape[1] < 3:
    return None
  return float(np.mean(np.abs(np.diff(clips - truth, n=2, axis=1))))
