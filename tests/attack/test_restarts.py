"""Many tries: independent of one another, of chunks, of batching."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vidleak_jax.attack import invert, restarts
from vidleak_jax.types import Guess, UserError


@pytest.fixture
def tries(templates):
  return restarts.plan(templates, num_restarts=2, size=6)


@pytest.fixture
def states(tiny_attack, tries):
  data = jax.random.key_data(jax.random.key(9))
  return restarts.starter(tiny_attack)(data, tries)


def _run(attack, states, tries, leak, chunks, batch_size=1):
  step = jax.jit(restarts.runner(attack, batch_size))
  for chunk in chunks:
    states, _ = step(states, tries.message, leak, chunk)
  return states


def test_a_try_depends_on_seed_message_and_restart_only(
    tiny_attack, tries, states):
  alone = jax.tree.map(lambda leaf: leaf[3:4], tries)
  data = jax.random.key_data(jax.random.key(9))
  state = restarts.starter(tiny_attack)(data, alone)
  np.testing.assert_array_equal(state.guess.clips[0], states.guess.clips[3])
  assert len({leaf.tobytes() for leaf in np.asarray(states.guess.clips)}) == 6


def test_chunks_equal_one_run_bit_for_bit(tiny_attack, states, tries, leak):
  whole = _run(tiny_attack, states, tries, leak, [6])
  cut = _run(tiny_attack, states, tries, leak, [1, 3, 2])
  for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(cut)):
    np.testing.assert_array_equal(a, b)


def test_vmapped_together_or_one_by_one(tiny_attack, states, tries, leak):
  one = _run(tiny_attack, states, tries, leak, [5], batch_size=1)
  all_six = _run(tiny_attack, states, tries, leak, [5], batch_size=6)
  np.testing.assert_allclose(one.guess.clips, all_six.guess.clips, atol=1e-3)


def test_the_objective_falls(tiny_attack, states, tries, leak):
  early = _run(tiny_attack, states, tries, leak, [1])
  late = _run(tiny_attack, states, tries, leak, [40])
  assert (late.best_loss < 0.5 * early.best_loss).all()


def test_the_lowest_score_answers_and_nan_never_wins(states, tries):
  scores = jnp.array([np.nan, 0.5, 0.2, 0.3, np.inf, 0.1])
  answer = restarts.best(states._replace(best_loss=scores), tries, 3)
  np.testing.assert_allclose(answer.match_loss, [0.5, 0.2, 0.1])
  np.testing.assert_array_equal(answer.clips[0], states.best.clips[1])


def test_a_message_without_a_finite_score_is_an_error(states, tries):
  scores = jnp.array([np.nan, np.inf, 0.2, 0.3, 0.4, 0.1])
  with pytest.raises(UserError, match='message 0 diverged'):
    restarts.best(states._replace(best_loss=scores), tries, 3)


def test_nan_gradients_leave_the_best_alone(templates):
  """A guess whose objective is NaN is never kept."""
  def objective(guess, leak, step):
    loss = jnp.where(step == 0, 1.0, jnp.nan) * jnp.mean(guess.clips)
    return loss, loss, {}
  template = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), templates)
  attack = invert.gradient_inversion(
      objective, optax.sgd(0.1),
      start=lambda key, t: Guess(t.clips + 0.5, t.labels),
      project=lambda guess: guess)
  state = attack.init(jax.random.key(0), template)
  for _ in range(3):
    state, _ = attack.update(state, None)
  assert state.best_loss == 0.5
  np.testing.assert_array_equal(state.best.clips, template.clips + 0.5)
