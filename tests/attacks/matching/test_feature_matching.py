"""Feature matching: 0 at the truth, first order, and far better than ig."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.conftest import RECIPE
from tests.helpers import noisy, problem, psnr, run_attack
from vidleak_jax import specs, victims
from vidleak_jax.attacks.analytic.activations import INVERTIBLE
from vidleak_jax.attacks.matching import (
    feature_matching,
    feature_targets,
    recipe,
    restarts,
)
from vidleak_jax.attacks.matching.feature_matching import FeatureMatching
from vidleak_jax.clients import observe
from vidleak_jax.types import Guess, Target, UserError


def _sent(activation, batch, preset='tiny'):
  victim = victims.build('c3d', batch.clips.shape[1:], 7, preset=preset,
                         activation=activation)
  return victim, observe(victim, victim.init(jax.random.key(1)), *batch)


def _targets(victim, *leaks, **options):
  return feature_targets.targets(victim.layers, leaks, **options)


def _of_update(target, index):
  return target._replace(evidence=jax.tree.map(
      lambda leaf: leaf[index], target.evidence))


def _layer_of(target):
  """The name of the layer that a target is about."""
  name, = target.evidence
  return name


@pytest.mark.slow
@pytest.mark.parametrize('activation', specs.ACTIVATIONS)
def test_the_true_clip_matches_with_0(activation, batch):
  victim, leak = _sent(activation, batch)
  found, = _targets(victim, leak)
  own = _of_update(found, 1)
  term = feature_matching.feature_match(victim.layers)
  truth = Guess(jnp.asarray(batch.clips[1:2]), jnp.asarray(batch.labels[1:2]))
  value, slope = jax.value_and_grad(
      lambda clips: term(truth._replace(clips=clips), own))(truth.clips)
  assert value < 1e-6
  assert jnp.isfinite(slope).all()
  assert term(truth._replace(clips=1 - truth.clips), own) > 1e-2


@pytest.mark.slow
def test_clips_are_recovered(batch):
  """From a random start that knows nothing, far above their mean colour."""
  small = batch._replace(clips=batch.clips[:, :2, :8, :8])
  victim, leak = _sent('leaky_relu', small, 'small')
  target, = _targets(victim, leak, max_steps=1)  # no layer is peeled
  assert _layer_of(target) == 'conv2'
  attack = recipe.build(
      feature_matching.feature_match(victim.layers), 300, RECIPE.replace(
          priors=recipe.Priors(0.1, 0.0, 0.0, 0.0), prior_schedule='geometric',
          learning_rate=0.1, beta2=0.99))
  templates = Guess(np.zeros_like(small.clips)[None, :, None],
                    small.labels[None, :, None])
  tries = restarts.plan(templates, num_restarts=1, size=3)
  trials = jax.tree.map(lambda leaf: leaf[None], restarts.Trials(
      target, {}, jax.random.key_data(jax.random.key(0))))
  states = restarts.starter(lambda _: attack)(tries, trials)
  states, _ = jax.jit(restarts.runner(lambda _: attack, 3))(
      states, tries, trials, np.full(3, 300))
  found = restarts.best(states, tries, 0).clips[:, 0]
  assert psnr(found, small.clips) > 15 + psnr(
      small.clips.mean((1, 2, 3), keepdims=True), small.clips)


def test_a_determined_layer_is_peeled_and_matched_below(batch):
  """The match at the truth stays 0, two layers deeper."""
  small = batch._replace(clips=batch.clips[:, :2, :8, :8])
  victim, leak = _sent('leaky_relu', small, 'small')
  found, = _targets(victim, leak)
  assert _layer_of(found) == 'conv0'
  seen = found.evidence['conv0']
  for i, clip in enumerate(small.clips):
    first, own = victim.layers[0], leak.params['conv0']
    z = np.asarray(first.linear(own['kernel'], clip[None]))
    x = first.activate(z + np.asarray(own['bias']))
    assert np.linalg.norm(seen.output[i] - x[0]) < 1e-4 * np.linalg.norm(x)
  own = _of_update(found, 0)
  term = feature_matching.feature_match(victim.layers)
  assert term(Guess(small.clips[:1], small.labels[:1]), own) < 1e-5
  assert term(Guess(1 - small.clips[:1], small.labels[:1]), own) > 1e-2
  assert seen.slope.shape == seen.output.shape


def test_noise_and_open_layers_end_the_descent(batch):
  small = batch._replace(clips=batch.clips[:, :2, :8, :8])
  victim, leak = _sent('leaky_relu', small, 'small')
  # one that is not determined keeps no other from it
  first, second = _targets(victim, noisy(leak, 1e-2), leak, max_steps=4000)
  assert _layer_of(first) == 'conv2' and _layer_of(second) == 'conv0'
  victim, leak = _sent('leaky_relu', batch, 'tiny')  # too few equations
  target, = _targets(victim, leak)
  assert _layer_of(target) == 'conv1'


def test_it_is_held_against_what_it_prepared(batch):
  small = batch._replace(clips=batch.clips[:, :2, :8, :8])
  victim, leak = _sent('leaky_relu', small, 'small')
  found, = FeatureMatching().prepare([problem(victim, leak)])
  expected, = _targets(victim, leak)
  assert isinstance(found, Target)
  jax.tree.map(np.testing.assert_array_equal, found, Target(
      (expected.params,), (expected.evidence,)))  # of one round


@pytest.mark.parametrize('output, guess, missed, slope', [
    (1e-2, -1e-1, 1.0, 1.0),    # known, whatever the guess says
    (-1e-2, 1e-1, 1.0, 0.01),
    (1e-7, 1e-3, 1e-3, 0.01),   # a poor guess: the flat half holds more
    (-1e-7, 1e-3, 1e-4, 0.01),
    (4e-6, -1e-3, 1e-3, 1.0),   # 4 deviations from what it would be there
    (-1e-7, 5e-7, 1e-8, 1.0),   # the guess is surer than what is known
    (1e-7, -5e-6, 1e-8, 0.01)])
def test_slopes_at_a_kink_are_the_likely_ones(output, guess, missed, slope):
  """A poor guess cannot keep a unit on the wrong side."""
  ones = np.ones((1, 4), np.float32)
  doubt = feature_targets.Doubt(ones, ones[None], 1e-6 * ones)
  seen = feature_targets.Seen(output * ones, ones, ones, doubt)
  found = feature_targets.likely_slope(
      INVERTIBLE['leaky_relu'], seen, guess * ones[None], missed * ones[None])
  np.testing.assert_allclose(found, slope * ones[None])


def test_a_victim_without_layers_is_told(victim, leak):
  with pytest.raises(UserError, match=r'plain chain(.|\n)*attack\.name'):
    run_attack(FeatureMatching(), victim.replace(chain=()), leak)
