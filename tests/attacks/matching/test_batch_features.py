"""Feature matching for batches: 0 at the truth, and one clip as before."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vidleak_jax import victims
from vidleak_jax.attacks.matching import batch_features
from vidleak_jax.types import UserError

SHAPE, CLASSES = (2, 8, 8, 3), 7


def _sent(labels, activation=None):
  """(victim, params, gradient of the batch, clips)."""
  victim = victims.build('c3d', SHAPE, CLASSES, preset='small',
                         activation=activation)
  rng = np.random.default_rng(0)
  clips = rng.uniform(size=(len(labels), *SHAPE)).astype(np.float32)
  clips = sum(np.roll(clips, k, axis=3) for k in range(4)) / 4
  params = victim.init(jax.random.key(1))
  return victim, params, jax.jit(jax.grad(victim.loss))(
      params, clips, jnp.asarray(labels)), clips


@pytest.mark.parametrize('labels', [[3], [1, 4], [2, 2, 5]])
def test_the_true_batch_matches_with_0(labels):
  victim, params, update, clips = _sent(labels)
  target, unmixed = batch_features.prepare(
      victim.layers, params, update, len(labels))
  assert (unmixed is None) == (len(labels) == 1)
  assert target.labels.tolist() == labels
  term = jax.jit(batch_features.feature_match(victim.layers))
  values = [term(jnp.asarray(clips[list(order)]), target)
            for order in _orders(labels)]  # of clips that share a label
  assert min(values) < 1e-5
  assert term(jnp.asarray(1 - clips), target) > 1e-2


def test_one_clip_equals_the_match_of_one_clip():
  """The sum that `anchored_match` computes, written out."""
  victim, params, update, clips = _sent([3])
  target, _ = batch_features.prepare(victim.layers, params, update, 1)
  guess = jnp.asarray(1 - clips)
  conv = victim.layers[-2]
  x = guess
  for layer in victim.layers[:-2]:
    x = layer.activate(layer.linear(params[layer.name]['kernel'], x)
                       + params[layer.name]['bias'])
  z = conv.linear(params[conv.name]['kernel'], x) + params[conv.name]['bias']
  error = update['head']['bias']
  h = (update['head']['kernel'] @ error / (error @ error)).reshape(z.shape)
  goal = jnp.where(h >= 0, h, h / 0.01)
  dz = (params['head']['kernel'] @ error).reshape(z.shape) * jnp.where(
      h >= 0, 1.0, 0.01)
  rows = dz.reshape(-1, dz.shape[-1])
  values, vectors = jnp.linalg.eigh(rows.T @ rows)
  values = jnp.maximum(values, 0) + 1e-7 * values[-1]
  white = vectors / jnp.sqrt(values) @ vectors.T
  kernel = params[conv.name]['kernel']
  grads = jax.vjp(lambda k: conv.linear(k, x), kernel)[1](dz)[0]
  grads, known = (each.reshape(-1, each.shape[-1]) @ white
                  for each in (grads, update[conv.name]['kernel']))
  expected = (jnp.sum((z - goal) ** 2) / jnp.sum(goal ** 2)
              + jnp.sum((grads - known) ** 2) / jnp.sum(known ** 2))
  found = jax.jit(batch_features.feature_match(victim.layers))(guess, target)
  np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_relu_hides_signs_and_still_matches_at_the_truth():
  victim, params, update, clips = _sent([1, 4], activation='relu')
  target, _ = batch_features.prepare(victim.layers, params, update, 2)
  term = jax.jit(batch_features.feature_match(victim.layers))
  value, slope = jax.jit(jax.value_and_grad(term))(clips, target)
  assert value < 1e-5 and jnp.isfinite(slope).all()


@pytest.mark.slow
def test_a_target_with_errors_amplifies_less():
  victim, params, update, clips = _sent([1, 4])
  exact, rough = (batch_features.prepare(
      victim.layers, params, update, 2, error=error)[0].whitening
                  for error in (0.0, 0.1))
  assert np.linalg.norm(rough, 2) < 0.1 * np.linalg.norm(exact, 2)
  term = batch_features.feature_match(victim.layers, exact=False)
  target, _ = batch_features.prepare(victim.layers, params, update, 2)
  assert term(jnp.asarray(clips), target) < 1e-5


def test_clips_of_a_batch_are_recovered():
  """From grey, far above each clip's mean colour, without a prior."""
  victim, params, update, clips = _sent([1, 4])
  target, _ = batch_features.prepare(victim.layers, params, update, 2)
  term = jax.jit(batch_features.feature_match(victim.layers))
  optimizer = optax.adam(optax.cosine_decay_schedule(0.1, 300), b2=0.99)

  @jax.jit
  def recover(target):
    def step(_, carry):
      guess, state = carry
      move, state = optimizer.update(jax.grad(term)(guess, target), state)
      return jnp.clip(guess + move, 0, 1), state
    grey = jnp.full(clips.shape, 0.5)
    return jax.lax.fori_loop(0, 300, step, (grey, optimizer.init(grey)))[0]

  found = np.asarray(recover(target))
  floor = clips.mean((1, 2, 3), keepdims=True)
  for i in range(2):
    assert np.mean((found[i] - clips[i]) ** 2) < 0.1 * np.mean(
        (floor[i] - clips[i]) ** 2)


def test_mistakes_are_told():
  victim, params, update, _ = _sent([1])
  with pytest.raises(UserError, match='lists 0'):
    batch_features.feature_match(())
  with pytest.raises(UserError, match='rank 6 at most'):
    batch_features.prepare(victim.layers, params, update, 7)
  del update['head']['bias']
  with pytest.raises(UserError, match='has none'):
    batch_features.prepare(victim.layers, params, update, 1)


def _orders(labels):
  import itertools
  return [order for order in itertools.permutations(range(len(labels)))
          if [labels[i] for i in order] == labels]


def test_slopes_of_doubtful_units_do_not_count():
  """As after several local steps, in which units near zero turn."""
  victim, params, update, clips = _sent([3])
  target, _ = batch_features.prepare(
      victim.layers, params, update, 1, error=0.01)
  assert 0 < target.doubtful.mean() < 0.3
  doubtful = np.flatnonzero(target.doubtful)[:3]
  turned = np.array(target.output)  # of the other sign, and as near to zero
  turned.flat[doubtful] = np.where(turned.flat[doubtful] >= 0, -1e-9, 1e-9)
  target = target._replace(output=turned)
  hard, soft = (float(jnp.linalg.norm(batch_features.residuals(
      victim.layers, exact=exact)(jnp.asarray(clips), target)[1]))
                for exact in (True, False))
  assert hard > 0.02 and soft < 0.1 * hard
