"""Eight CPU devices for every test, and tiny things to attack."""

import os
import shutil
import subprocess
from pathlib import Path

os.environ['XLA_FLAGS'] = ' '.join([
    os.environ.get('XLA_FLAGS', ''),
    '--xla_force_host_platform_device_count=8',
    # Most of the time goes to compiling, and programs here run for moments.
    '--xla_backend_optimization_level=0',
    '--xla_cpu_use_fusion_emitters=false',
    '--xla_cpu_parallel_codegen_split_count=1'])
# Most programs here are compiled many times, by tests, workers and launchers.
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(
    Path(__file__).parents[1] / '.pytest_cache' / 'jax'))
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.05')

import jax
import numpy as np
import pytest

from vidleak_jax import victims
from vidleak_jax.attacks.matching import match, recipe
from vidleak_jax.clients import observe
from vidleak_jax.runtime import backend
from vidleak_jax.types import Batch, Guess

backend.apply(backend.choose('cpu'))

CLIP_SHAPE = (4, 16, 16, 3)

# Tests of arrays: those of different ranks are broadcast by name only.
STRICT_RANKS = ('attacks/matching', 'models', 'runtime')
# Written before that rule: biases added to rows, scaled columns.
LOOSE_RANKS = {'test_batch_features.py', 'test_defended.py',
               'test_feature_rounds.py'}


@pytest.fixture(autouse=True)
def strict_ranks(request):
  """Implicit rank promotion is an error in the folders named above."""
  folder = request.path.parent.relative_to(Path(__file__).parent)
  if request.path.name in LOOSE_RANKS or not any(
      folder.is_relative_to(part) for part in STRICT_RANKS):
    yield
    return
  with jax.numpy_rank_promotion('raise'):
    yield


@pytest.fixture
def strict_keys():
  """A random key that is used twice is an error."""
  with jax.debug_key_reuse(True):
    yield


@pytest.fixture
def no_leaked_tracers():
  """No value of a trace may outlive it; slow, since nothing is cached."""
  with jax.checking_leaks():
    yield


RECIPE = recipe.Recipe(
    priors=recipe.Priors(0.01, 0.01, 0.0, 0.0), memory=5, coarse=0.0)


@pytest.fixture(scope='session')
def victim():
  return victims.build('c3d', CLIP_SHAPE, 7, preset='tiny')


@pytest.fixture(scope='session')
def batch():
  rng = np.random.default_rng(0)
  coarse = rng.uniform(size=(3, *CLIP_SHAPE)).astype(np.float32)
  smooth = sum(np.roll(coarse, k, axis=3) for k in range(4)) / 4
  return Batch(smooth, np.array([5, 0, 3], np.int32))


@pytest.fixture(scope='session')
def leak(victim, batch):
  """One update a clip."""
  return observe(
      victim, victim.init(jax.random.key(1)), batch.clips, batch.labels)


@pytest.fixture
def tiny_attack(victim):
  distance = match.weighted_distance({'cosine': 1.0, 'relative_l2': 0.1})
  return recipe.build(match.gradient_match(victim.loss, distance), 40, RECIPE)


@pytest.fixture
def templates(batch):
  clips = np.zeros((3, 1, *CLIP_SHAPE), np.float32)
  return Guess(clips, np.asarray(batch.labels)[:, None])


@pytest.fixture
def small_disk(tmp_path):
  disk = tmp_path / 'disk'
  disk.mkdir()
  mounted = shutil.which('mount') and subprocess.run(
      ['mount', '-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', str(disk)],
      capture_output=True, check=False).returncode == 0
  if not mounted:
    pytest.skip('Only root can mount a small tmpfs.')
  yield disk
  subprocess.run(['umount', '-l', str(disk)], check=False)
