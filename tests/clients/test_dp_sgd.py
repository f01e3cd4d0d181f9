"""The private gradient against its formula."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vidleak_jax.clients import dp_sgd
from vidleak_jax.types import UserError

KEY = jax.random.key(0)
PARAMS = {'w': jnp.arange(6.0), 'b': jnp.zeros(())}
CLIPS = jax.random.normal(jax.random.key(1), (5, 2, 1, 1, 3))
LABELS = jnp.arange(5)


def loss(params, clips, labels, key=None):
  del key
  x = clips.reshape(len(clips), -1)
  return jnp.mean((x @ params['w'] + params['b'] - labels) ** 2)


def gradient(**strengths):
  return dp_sgd.dp_sgd_gradient(
      loss, PARAMS, CLIPS, LABELS, KEY, **strengths)


def test_each_examples_gradient_is_clipped():
  own = [jax.grad(loss)(PARAMS, CLIPS[i:i + 1], LABELS[i:i + 1])
         for i in range(5)]
  norms = [float(optax.tree.norm(each)) for each in own]
  clip_norm = float(np.median(norms))
  want = sum(np.asarray(each['w']) * min(1, clip_norm / norm)
             for each, norm in zip(own, norms)) / 5
  got = gradient(clip_norm=clip_norm, noise_multiplier=0.0)
  np.testing.assert_allclose(got['w'], want, rtol=1e-5)


def test_without_a_bound_it_is_the_gradient():
  got = gradient(clip_norm=1e6, noise_multiplier=0.0)
  want = jax.grad(loss)(PARAMS, CLIPS, LABELS)
  np.testing.assert_allclose(got['w'], want['w'], rtol=1e-4)


def test_noise_is_scaled_by_the_bound_and_shared_by_the_batch():
  keys = jax.random.split(KEY, 2000)
  draws = jax.vmap(lambda key: dp_sgd.dp_sgd_gradient(
      loss, PARAMS, CLIPS, LABELS, key, clip_norm=2.0,
      noise_multiplier=1.5)['b'])(keys)
  np.testing.assert_allclose(jnp.std(draws), 2.0 * 1.5 / 5, rtol=0.05)


def test_what_is_not_finite_counts_as_nothing():
  clips = CLIPS.at[0].set(jnp.inf)
  got = dp_sgd.dp_sgd_gradient(
      loss, PARAMS, clips, LABELS, KEY, clip_norm=1.0, noise_multiplier=0.0)
  assert np.isfinite(got['w']).all() and optax.tree.norm(got) <= 1


def test_a_wrong_strength_is_told():
  with pytest.raises(UserError, match='noise_multiplier'):
    gradient(clip_norm=1.0, noise_multiplier=-1.0)
