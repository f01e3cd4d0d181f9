"""The anchored match: 0 at the truth, first order, and far better than ig."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.conftest import RECIPE
from vidleak_jax import victims
from vidleak_jax.attacks.matching import feature_matching, recipe, restarts
from vidleak_jax.clients import defenses, federated
from vidleak_jax.types import Guess, UserError


def _sent(activation, batch, preset='tiny'):
  victim = victims.build('c3d', batch.clips.shape[1:], 7, preset=preset,
                         activation=activation)
  leak = federated.send(
      federated.client(victim.loss), victim.init(jax.random.key(1)),
      federated.split(batch, 'clip'), defenses.build(jax.random.key(2)))
  return victim, leak


@pytest.mark.parametrize('activation', victims.ACTIVATIONS)
def test_the_true_clip_matches_with_0(activation, batch):
  victim, leak = _sent(activation, batch)
  own = leak._replace(
      update=jax.tree.map(lambda leaf: leaf[1], leak.update))
  term = feature_matching.anchored_match(victim.layers)
  truth = Guess(jnp.asarray(batch.clips[1:2]), jnp.asarray(batch.labels[1:2]))
  value, slope = jax.value_and_grad(
      lambda clips: term(truth._replace(clips=clips), own))(truth.clips)
  assert value < 1e-6
  assert jnp.isfinite(slope).all()
  assert term(truth._replace(clips=1 - truth.clips), own) > 1e-2


def test_clips_are_recovered(batch):
  """From a random start that knows nothing, far above their mean colour."""
  small = batch._replace(clips=batch.clips[:, :2, :8, :8])
  victim, leak = _sent('leaky_relu', small, 'small')
  attack = recipe.build(
      feature_matching.anchored_match(victim.layers), 300, **RECIPE | {
          'priors': {'spatial_tv': 0.1}, 'prior_schedule': 'geometric',
          'learning_rate': 0.1, 'beta2': 0.99})
  templates = Guess(np.zeros_like(small.clips)[None, :, None],
                    small.labels[None, :, None])
  tries = restarts.plan(templates, num_restarts=1, size=3)
  trials = jax.tree.map(lambda leaf: leaf[None], restarts.Trials(
      leak, {}, jax.random.key_data(jax.random.key(0))))
  states = restarts.starter(lambda _: attack)(tries, trials)
  states, _ = jax.jit(restarts.runner(lambda _: attack, 3))(
      states, tries, trials, np.full(3, 300))
  found = restarts.best(states, tries, 0).clips[:, 0]
  assert _psnr(found, small.clips) > 15 + _psnr(
      small.clips.mean((1, 2, 3), keepdims=True), small.clips)


def test_a_determined_layer_is_solved_and_anchored_below(batch):
  """The match at the truth stays 0, two layers deeper."""
  small = batch._replace(clips=batch.clips[:, :2, :8, :8])
  victim, leak = _sent('leaky_relu', small, 'small')
  found, = feature_matching.deepen(victim.layers, [leak])
  (name, (known, slope)), = found.update['anchor'].items()
  assert name == 'conv0'
  for i, clip in enumerate(small.clips):
    first, own = victim.layers[0], leak.params['conv0']
    x = first.activate(
        first.linear(own['kernel'], clip[None]) + own['bias'])
    assert np.linalg.norm(known[i] - x[0]) < 1e-4 * np.linalg.norm(x)
  own = found._replace(update=jax.tree.map(lambda leaf: leaf[0], found.update))
  term = feature_matching.anchored_match(victim.layers)
  assert term(Guess(small.clips[:1], small.labels[:1]), own) < 1e-5
  assert term(Guess(1 - small.clips[:1], small.labels[:1]), own) > 1e-2
  assert slope.shape == known.shape


def test_noise_and_open_layers_end_the_descent(batch):
  small = batch._replace(clips=batch.clips[:, :2, :8, :8])
  victim, leak = _sent('leaky_relu', small, 'small')
  noisy = leak._replace(update=jax.tree.map(
      lambda leaf: leaf + 1e-2 * np.std(leaf) * np.random.default_rng(0).normal(
          size=leaf.shape).astype(np.float32), leak.update))
  # one that is not determined keeps no other from it
  first, second = feature_matching.deepen(
      victim.layers, [noisy, leak], max_steps=4000)
  assert first is noisy and 'conv0' in second.update['anchor']
  victim, leak = _sent('leaky_relu', batch, 'tiny')  # too few equations
  assert feature_matching.deepen(victim.layers, [leak])[0] is leak


def _psnr(a, b):
  return -10 * np.log10(np.mean((a - b) ** 2))


def test_a_victim_without_layers_is_told():
  with pytest.raises(UserError, match=r'attack\.name=ig'):
    feature_matching.anchored_match(())
