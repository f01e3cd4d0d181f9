"""Distances against NumPy; the forward-mode gradient against autodiff."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import target_of
from vidleak_jax.attacks.matching import match
from vidleak_jax.clients import FedAvg, FedSGD
from vidleak_jax.types import Guess, Target


def _flat(tree):
  return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


@pytest.fixture
def own(leak):
  return target_of(leak)


@pytest.fixture
def guesses(batch):
  key = jax.random.key(4)
  clips = jax.random.uniform(key, batch.clips[:1].shape)
  return {'hard': Guess(clips, jnp.asarray(batch.labels[:1])),
          'soft': Guess(clips, jax.random.normal(key, (1, 7)))}


def test_distances_are_what_they_say(own):
  a = own.params
  b = jax.tree.map(lambda x: 0.5 * x + 0.1, a)
  x, y = _flat(a), _flat(b)
  gap = np.sum((x - y) ** 2)
  np.testing.assert_allclose(match.squared_l2(a, b), gap, rtol=1e-5)
  np.testing.assert_allclose(match.relative_l2(a, b), gap / (y @ y), rtol=1e-5)
  cosine = 1 - x @ y / np.linalg.norm(x) / np.linalg.norm(y)
  np.testing.assert_allclose(match.cosine(a, b), cosine, atol=1e-6)


@pytest.mark.parametrize('name', match.DISTANCES)
def test_distance_to_itself_is_0_and_to_zeros_finite(name, own):
  distance = match.DISTANCES[name]
  zeros = jax.tree.map(jnp.zeros_like, own.params)
  assert abs(distance(own.params, own.params)) < 1e-5
  chex.assert_tree_all_finite(jax.grad(distance)(own.params, zeros))


@pytest.mark.parametrize('labels', ['hard', 'soft'])
def test_forward_mode_equals_double_backward(labels, victim, own, guesses):
  distance = match.weighted_distance({'cosine': 1.0, 'relative_l2': 0.1})
  fast = match.gradient_match(victim.loss, distance)
  slow = match.update_match(
      functools.partial(FedSGD().update, victim.loss), distance)
  guess = guesses[labels]
  values, slopes = [], []
  for term in (fast, slow):
    value, slope = jax.jit(jax.value_and_grad(
        lambda guess, term=term: term(guess, own), allow_int=True))(guess)
    values.append(value)
    slopes.append(slope)
  np.testing.assert_allclose(*values, rtol=1e-5)
  np.testing.assert_allclose(
      slopes[0].clips, slopes[1].clips,
      atol=1e-5 * np.abs(slopes[1].clips).max())
  if labels == 'soft':
    np.testing.assert_allclose(slopes[0].labels, slopes[1].labels, atol=1e-5)


def test_the_true_clip_matches_with_0(victim, own, batch):
  truth = Guess(jnp.asarray(batch.clips[:1]), jnp.asarray(batch.labels[:1]))
  for distance in match.DISTANCES.values():
    assert match.gradient_match(victim.loss, distance)(truth, own) < 1e-5


def test_fedavg_is_matched_by_simulating_the_client(victim, own, batch):
  client = functools.partial(
      FedAvg(local_steps=2, local_learning_rate=0.05).update, victim.loss)
  truth = Guess(jnp.asarray(batch.clips[:1]), jnp.asarray(batch.labels[:1]))
  sent = own._replace(evidence=client(own.params, *truth))
  term = match.update_match(client, match.cosine)
  assert term(truth, sent) < 1e-5
  other = truth._replace(clips=1 - truth.clips)
  assert term(other, sent) > 1e-3


@pytest.mark.parametrize('pack', [lambda params: params, None])
def test_small_leaves_have_no_sums_of_their_own(pack):
  """Each sum over a leaf is a loop that XLA compiles."""
  def loss(params, clips, labels):
    del labels
    return sum(jnp.sum(jnp.tanh(clips * leaf)) for leaf in params)

  def dots(count):
    own = tuple(jnp.ones(1) for _ in range(count))
    term = match.gradient_match(
        loss, match.weighted_distance({'cosine': 1.0}), pack)
    traced = jax.make_jaxpr(lambda clips: term(
        Guess(clips, jnp.zeros(1, jnp.int32)), Target(own, own)))(jnp.ones(1))
    return str(traced).count('dot_general')

  assert (dots(20) == dots(2)) == (pack is not None)
