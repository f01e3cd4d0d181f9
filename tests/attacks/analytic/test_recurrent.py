"""A recurrent layer's inputs: exact from its gradient, and matched."""

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
