"""A recurrent layer's inputs: exact from its gradient, and anchored on."""

import jax
import numpy as np
import pytest

from vidleak_jax import victims
from vidleak_jax.attacks.matching import feature_matching
from vidleak_jax.clients import defenses, federated
from vidleak_jax.types import Batch, Guess, UserError


def _sent(batch, **options):
  victim = victims.build('cnn_gru', batch.clips.shape[1:], 7, preset='tiny',
                         **options)
  leak = federated.send(
      federated.client(victim.loss), victim.init(jax.random.key(1)),
      federated.split(batch, 'clip'), defenses.build(jax.random.key(2)))
  return victim, leak


@pytest.fixture
def small(batch):
  """Two clips of three frames; the second is still."""
  clips = batch.clips[:2, :3, :8, :8].copy()
  clips[1] = clips[1, :1]
  return Batch(clips, batch.labels[:2])


@pytest.mark.parametrize('cell', ['gru', 'lstm'])
def test_features_are_recovered_and_the_match_anchors_on_them(small, cell):
  victim, leak = _sent(small, cell=cell)
  noisy = leak._replace(update=jax.tree.map(
      lambda leaf: leaf + 1e-2 * np.std(leaf) * np.random.default_rng(0).normal(
          size=leaf.shape).astype(np.float32), leak.update))
  upper = victim.layers[1:]
  # one that noise hides is told, and keeps no other from it
  found, lost = feature_matching.deepen(upper, [leak, noisy])
  assert isinstance(lost, UserError) and 'attack.name=ig' in str(lost)
  (name, (known, slope)), = found.update['anchor'].items()
  assert name == 'conv1' and slope.shape == known.shape
  truth = small.clips
  for layer in victim.layers[:2]:
    own = leak.params[layer.name]
    truth = layer.activate(layer.linear(own['kernel'], truth) + own['bias'])
  assert np.linalg.norm(known - truth) < 1e-3 * np.linalg.norm(truth)

  own = found._replace(update=jax.tree.map(lambda leaf: leaf[0], found.update))
  term = feature_matching.anchored_match(victim.layers)
  assert term(Guess(small.clips[:1], small.labels[:1]), own) < 1e-4
  assert term(Guess(1 - small.clips[:1], small.labels[:1]), own) > 1e-2


def test_more_frames_than_the_width_tells_are_told(batch):
  frames = np.concatenate([batch.clips] * 2, 1)[:1, :6, :8, :8]
  victim, leak = _sent(Batch(frames, batch.labels[:1]))
  found, = feature_matching.deepen(victim.layers, [leak])
  assert isinstance(found, UserError)


@pytest.mark.parametrize('options', [
    {'norm': 'group'}, {'inputs': 'half'}, {'preset': 'full'}], ids=str)
def test_what_stands_between_layers_leaves_none_to_list(options):
  shape = 4, 32, 32, 3
  assert victims.build('cnn_gru', shape, 7, **options).layers == ()
