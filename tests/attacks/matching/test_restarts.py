"""Many tries: independent of one another, of chunks, of batching."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vidleak_jax.attacks.matching import inversion, restarts
from vidleak_jax.types import Guess, Target, UserError


@pytest.fixture
def tries(templates):
  one_trial = jax.tree.map(lambda leaf: leaf[None], templates)
  return restarts.plan(one_trial, num_restarts=2, size=6)


@pytest.fixture
def trials(leak):
  own = restarts.Trials(
      Target(leak.params, leak.update), {},
      jax.random.key_data(jax.random.key(9)))
  return jax.tree.map(lambda leaf: leaf[None], own)


@pytest.fixture
def states(tiny_attack, tries, trials):
  return restarts.starter(lambda numbers: tiny_attack)(tries, trials)


def _run(attack, states, tries, trials, chunks, batch_size=1):
  step = jax.jit(restarts.runner(lambda numbers: attack, batch_size))
  for chunk in chunks:
    states, _ = step(states, tries, trials, jnp.full(6, chunk))
  return states


def test_a_try_depends_on_seed_message_and_restart_only(
    tiny_attack, tries, trials, states):
  alone = jax.tree.map(lambda leaf: leaf[3:4], tries)
  state = restarts.starter(lambda numbers: tiny_attack)(alone, trials)
  np.testing.assert_array_equal(state.guess.clips[0], states.guess.clips[3])
  assert len({leaf.tobytes() for leaf in np.asarray(states.guess.clips)}) == 6


def test_chunks_equal_one_run_bit_for_bit(tiny_attack, states, tries, trials):
  whole = _run(tiny_attack, states, tries, trials, [6])
  cut = _run(tiny_attack, states, tries, trials, [1, 3, 2])
  for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(cut)):
    np.testing.assert_array_equal(a, b)


def test_vmapped_together_or_one_by_one(tiny_attack, states, tries, trials):
  one = _run(tiny_attack, states, tries, trials, [5], batch_size=1)
  all_six = _run(tiny_attack, states, tries, trials, [5], batch_size=6)
  np.testing.assert_allclose(one.guess.clips, all_six.guess.clips, atol=1e-3)


def test_the_objective_falls(tiny_attack, states, tries, trials):
  early = _run(tiny_attack, states, tries, trials, [1])
  late = _run(tiny_attack, states, tries, trials, [40])
  assert (late.best_loss < 0.5 * early.best_loss).all()


def test_the_lowest_score_answers_and_nan_never_wins(states, tries):
  scores = jnp.array([np.nan, 0.5, 0.2, 0.3, np.inf, 0.1])
  answer = restarts.best(states._replace(best_loss=scores), tries, 0)
  np.testing.assert_allclose(answer.objective, [0.5, 0.2, 0.1])
  np.testing.assert_array_equal(answer.clips[0], states.best.clips[1])


def test_what_a_halving_dropped_never_answers(states, tries):
  scores = jnp.array([0.1, 0.5, 0.2, 0.3, 0.4, 0.6])
  alive = np.array([False, True, True, False, False, True])
  answer = restarts.best(states._replace(best_loss=scores), tries, 0, alive)
  np.testing.assert_allclose(answer.objective, [0.5, 0.2, 0.6])


@pytest.mark.parametrize('count, devices, batch, rows', [
    (8, 1, 8, 8), (8, 8, 64, 8), (9, 2, 8, 10), (67, 1, 64, 68), (1, 4, 1, 4),
    (10, 1, 4, 12), (15, 2, 1, 16)])
def test_rows_fill_devices_and_equal_batches(count, devices, batch, rows):
  assert restarts.num_rows(count, devices, batch) == rows


def test_a_message_without_a_finite_score_is_an_error(states, tries):
  scores = jnp.array([np.nan, np.inf, 0.2, 0.3, 0.4, 0.1])
  with pytest.raises(UserError, match='message 0 diverged'):
    restarts.best(states._replace(best_loss=scores), tries, 0)


def test_nan_gradients_leave_the_best_alone(templates):
  """A guess whose objective is NaN is never kept."""
  def objective(guess, target, step):
    loss = jnp.where(step == 0, 1.0, jnp.nan) * jnp.mean(guess.clips)
    return loss, loss, {}
  template = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), templates)
  attack = inversion.gradient_inversion(
      objective, optax.sgd(0.1),
      start=lambda key, t: Guess(t.clips + 0.5, t.labels),
      project=lambda guess: guess)
  state = attack.init(jax.random.key(0), template)
  for _ in range(3):
    state, _ = attack.update(state, None)
  assert state.best_loss == 0.5
  np.testing.assert_array_equal(state.best.clips, template.clips + 0.5)


def test_no_key_is_used_twice(
    toy_attack, toy_target, toy_templates, strict_keys):
  """Each try's start has randomness of its own."""
  trials, templates = jax.tree.map(
      lambda leaf: leaf[None],
      (restarts.Trials(toy_target, {}, jax.random.key_data(jax.random.key(9))),
       toy_templates))
  tries = restarts.plan(templates, num_restarts=2, size=6)
  restarts.starter(lambda numbers: toy_attack)(tries, trials)


def test_no_tracer_leaks_from_a_step(toy_attack, toy_target, toy_templates,
                                     no_leaked_tracers):
  template, evidence = jax.tree.map(
      lambda leaf: jnp.asarray(leaf[0]), (toy_templates, toy_target.evidence))
  state = toy_attack.init(jax.random.key(0), template)
  state, terms = jax.jit(toy_attack.update)(
      state, toy_target._replace(evidence=evidence))
  assert np.isfinite(terms['loss'])
