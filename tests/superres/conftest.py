"""A clip of a moving photograph, small and large; stored references."""


import numpy as np
import pytest

from tests.helpers import REFERENCES
from vidleak_jax.superres import degrade, moving


def read_reference(case):
  """(arrays, weights as `references/make_superres.py` draws them)."""
  with np.load(REFERENCES / f'{case}.npz') as archive:
    arrays = dict(archive)
  shapes = {key.removeprefix('shape:'): arrays.pop(key)
            for key in list(arrays) if key.startswith('shape:')}
  tensors = {}
  for i, (key, shape) in enumerate(shapes.items()):
    fan_in = np.prod(shape[1:]) if len(shape) > 1 else 100
    draw = np.random.RandomState(i).randn(*shape) / fan_in ** 0.5
    tensors[key] = draw.astype(np.float32)
  return arrays, tensors


@pytest.fixture(scope='session')
def large():
  clip = next(moving.clips(1, 3, 128, seed=3))
  return clip[None].astype(np.float32) / 255


@pytest.fixture(scope='session')
def small(large):
  return np.asarray(degrade.bicubic(large, 4))
