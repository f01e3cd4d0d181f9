"""A recurrent layer's inputs: exact from its gradient, and matched."""

import sys

import jax
import numpy as np
import pytest

from tests.helpers import noisy
from vidleak_jax import victims
from vidleak_jax.attacks.matching import feature_matching, feature_targets
from vidleak_jax.clients import observe
from vidleak_jax.types import Batch, Guess, Target, UserError


def _sent(batch, **options):
  victim = victims.build('cnn_gru', batch.clips.shape[1:], 7, preset='tiny',
                         **options)
  return victim, observe(victim, victim.init(jax.random.key(1)), *batch)


@pytest.fixture
def small(batch):
  """Two clips of three frames; the second is still."""
  clips = batch.clips[:2, :3, :8, :8].copy()
  clips[1] = clips[1, :1]
  return Batch(clips, batch.labels[:2])


@pytest.mark.slow
@pytest.mark.parametrize('cell', ['gru', 'lstm'])
def test_features_are_recovered_and_matched(small, cell):
  victim, leak = _sent(small, cell=cell)
  upper = victim.layers[1:]
  # one that noise hides is told, and keeps no other from it
  found, lost = feature_targets.targets(upper, [leak, noisy(leak, 1e-2)])
  assert isinstance(lost, UserError) and 'attack.name=ig' in str(lost)
  (name, seen), = found.evidence.items()
  assert name == 'conv1' and seen.slope.shape == seen.output.shape
  truth = small.clips
  for layer in victim.layers[:2]:
    own = leak.params[layer.name]
    truth = layer.activate(layer.linear(own['kernel'], truth) + own['bias'])
  error = np.linalg.norm(seen.output - truth)
  assert error < 1e-3 * np.linalg.norm(truth)

  own = Target(found.params, jax.tree.map(lambda leaf: leaf[0], found.evidence))
  term = feature_matching.feature_match(victim.layers)
  assert term(Guess(small.clips[:1], small.labels[:1]), own) < 1e-4
  assert term(Guess(1 - small.clips[:1], small.labels[:1]), own) > 1e-2


@pytest.mark.slow
def test_early_frames_are_known_as_well_as_float32_tells(monkeypatch):
  """Solved step by step, these are off by 5e-3, and the equations by 0.5."""
  file = sys.modules[victims.cnn_gru.__module__]
  monkeypatch.setitem(file.PRESETS, 'tiny', file.Size(
      ((4, 3, 2), (4, 3, 2)), 0, 32))
  rng = np.random.default_rng(0)
  scene = rng.uniform(0.35, 0.65, (1, 8, 8, 3))
  moved = 0.02 * np.cumsum(rng.normal(size=(10, 8, 8, 3)), 0)
  batch = Batch((scene + moved)[None].astype(np.float32), np.array([3]))
  victim, leak = _sent(batch)
  found, = feature_targets.targets(victim.layers, [leak])
  (_, seen), = found.evidence.items()
  truth = batch.clips
  for layer in victim.layers[:2]:
    own = leak.params[layer.name]
    truth = layer.activate(layer.linear(own['kernel'], truth) + own['bias'])
  off = (seen.output - truth).reshape(10, -1)
  assert np.linalg.norm(off) < 2e-4 * np.linalg.norm(truth)
  # late frames are known best
  assert np.linalg.norm(off[-1]) < 1e-1 * np.linalg.norm(off[2])

  own = Target(found.params, jax.tree.map(lambda leaf: leaf[0], found.evidence))
  for misfit in feature_matching.residuals(victim.layers)(batch.clips, own):
    assert np.linalg.norm(misfit) < 1e-4
  for misfit in feature_matching.residuals(victim.layers)(
      np.clip(batch.clips + 1e-2, 0, 1), own):
    assert np.linalg.norm(misfit) > 1e-3


def test_more_frames_than_the_width_tells_are_told(batch):
  frames = np.concatenate([batch.clips] * 2, 1)[:1, :6, :8, :8]
  victim, leak = _sent(Batch(frames, batch.labels[:1]))
  found, = feature_targets.targets(victim.layers, [leak])
  assert isinstance(found, UserError)


@pytest.mark.parametrize('options', [
    {'norm': 'group'}, {'inputs': 'half'}, {'preset': 'full'}], ids=str)
def test_what_stands_between_layers_leaves_none_to_list(options):
  shape = 4, 32, 32, 3
  assert victims.build('cnn_gru', shape, 7, **options).layers == ()
