"""Frames at another resolution."""

import jax
import numpy as np


def resized(frames: np.ndarray, size: int) -> np.ndarray:
  """Returns frames [..., L, L, C] in [0, 1] at [..., size, size, C], cubic."""
  if frames.shape[-2] == size:
    return np.asarray(frames)
  shape = (*frames.shape[:-3], size, size, frames.shape[-1])
  return np.clip(np.asarray(jax.image.resize(frames, shape, 'cubic')), 0, 1)
