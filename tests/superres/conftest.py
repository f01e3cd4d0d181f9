"""A clip of a moving photograph, small and large."""

import numpy as np
import pytest

from vidleak_jax.superres import degrade, moving


@pytest.fixture(scope='session')
def large():
  clip = next(moving.clips(1, 3, 128, seed=3))
  return clip[None].astype(np.float32) / 255


@pytest.fixture(scope='session')
def small(large):
  return np.asarray(degrade.bicubic(large, 4))
