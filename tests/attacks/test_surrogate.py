"""Several local steps as one gradient at a point between the weights."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vidleak_jax.attacks.surrogate import midpoint_surrogate, surrogate
from vidleak_jax.specs import LocalTraining
from vidleak_jax.types import UserError

FEATURES, CLASSES, STEPS = 30, 12, 5


def _loss(params, x, labels):
  h = jnp.tanh(x @ params['below'])
  logits = h @ params['head']['kernel'] + params['head']['bias']
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


@jax.jit
def _train(params, x, labels, rate):
  end = jax.lax.fori_loop(0, STEPS, lambda _, p: jax.tree.map(
      lambda w, g: w - rate * g, p, jax.grad(_loss)(p, x, labels)), params)
  return jax.tree.map(jnp.subtract, params, end)


_gradient = jax.jit(jax.grad(_loss))


def _client(rate, labels):
  keys = jax.random.split(jax.random.key(0), 3)
  params = {
      'below': jax.random.normal(keys[0], (20, FEATURES)),
      'head': {'kernel': 0.3 * jax.random.normal(keys[1], (FEATURES, CLASSES)),
               'bias': jnp.zeros(CLASSES)}}
  x = jax.random.normal(keys[2], (len(labels), 20))
  return params, x, jnp.asarray(labels), _train(
      params, x, jnp.asarray(labels), rate)


def _surrogate(params, update, rate, batch_size=1):
  return midpoint_surrogate(
      params, update, ('head',), batch_size,
      LocalTraining(local_steps=STEPS, local_learning_rate=rate))


def _apart(one, other):
  difference = jax.tree.map(lambda a, b: jnp.sum((a - b) ** 2), one, other)
  size = jax.tree.map(lambda b: jnp.sum(b ** 2), other)
  return float(jnp.sqrt(sum(jax.tree.leaves(difference))
                        / sum(jax.tree.leaves(size))))


@pytest.mark.parametrize('rate', [0.003, 0.01])
def test_the_point_lies_between_and_beats_the_start(rate):
  params, x, labels, update = _client(rate, [3])
  found = _surrogate(params, update, rate)
  assert 0.2 < found.position < 0.6 and not found.one_step
  assert 0.9 < found.scale < 1.1
  off = _apart(found.gradient, _gradient(found.params, x, labels))
  mean = jax.tree.map(lambda u: u / (rate * STEPS), update)
  assert off < 0.3 * _apart(mean, _gradient(params, x, labels))


@pytest.mark.parametrize('labels', [[3], [1, 4]])
def test_one_step_that_did_it_all_is_exact(labels):
  """The rest of the steps send nothing; the scale says so."""
  params, x, labels, _ = _client(0.1, labels)
  update = jax.tree.map(lambda g: 0.1 * g, _gradient(params, x, labels))
  found = _surrogate(params, update, 0.1, len(labels))
  assert found.one_step and found.position == 0
  np.testing.assert_allclose(found.scale, STEPS, rtol=1e-4)
  assert _apart(found.gradient, _gradient(params, x, labels)) < 1e-4


def test_a_batch_moves_along():
  params, _, _, update = _client(0.01, [1, 4])
  found = _surrogate(params, update, 0.01, 2)
  assert found.position > 0 and found.scale == 1 and found.residual < 0.05


def test_where_the_head_does_not_tell_the_point_is_typical():
  params, _, _, update = _client(0.01, [1, 4])
  adam = LocalTraining(local_steps=STEPS, local_learning_rate=0.01,
                       optimizer='adam')
  found = surrogate(params, update, ('head',), 2, adam)
  assert found.position == 0.42 and 'signs' in found.note
  np.testing.assert_allclose(
      found.gradient['below'], update['below'] / (0.01 * STEPS), rtol=1e-5)
  with pytest.raises(UserError, match='no sum of gradients'):
    midpoint_surrogate(params, update, ('head',), 2, adam)


def test_a_head_without_a_bias_is_told():
  params, _, _, update = _client(0.01, [3])
  update = update | {'head': {'kernel': update['head']['kernel']}}
  params = params | {'head': {'kernel': params['head']['kernel']}}
  with pytest.raises(UserError, match='head has none'):
    _surrogate(params, update, 0.01)
