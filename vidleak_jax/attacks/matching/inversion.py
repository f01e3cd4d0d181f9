"""Gradient inversion of one message from one start: a pair of pure functions.

`restarts` runs many of them at once.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from vidleak_jax.types import Array, Guess, PRNGKey, Target

Weight = float | optax.Schedule
Objective = Callable[..., tuple[Array, Array, dict[str, Array]]]


class AttackState(NamedTuple):
  """State of one restart; stacked on axis 0 for many."""
  step: Array       # [] int32
  guess: Guess      # the current candidate
  opt_state: optax.OptState
  best: Guess       # the candidate that scored best_loss
  best_loss: Array  # [] float32, with the weights of the last step


class Attack(NamedTuple):
  """What `restarts.run` needs."""
  init: Callable[[PRNGKey, Guess], AttackState]
  update: Callable[[AttackState, Target], tuple[AttackState, dict[str, Array]]]


def weighted_sum(num_steps: int, **terms: tuple[Weight, Callable]) -> Objective:
  """The sum of named terms, each `(guess, target) -> []`.

  Args:
    num_steps: of the attack: the weights at its end define the score.
    **terms: name=(weight, term); a weight is a number or an optax schedule.

  Returns:
    `(guess, target, step) -> (value, score, each term)`: the value is what a
    step descends; the score ranks guesses of different steps and restarts, as
    its weights do not move.
  """

  def objective(guess, target, step):
    values = {name: term(guess, target) for name, (_, term) in terms.items()}
    def total(step):
      return sum(_at(weight, step) * values[name]
                 for name, (weight, _) in terms.items())
    return total(step), total(num_steps), values
  return objective


def gradient_inversion(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    *,
    start: Callable[[PRNGKey, Guess], Guess],
    project: Callable[[Guess], Guess],
) -> Attack:
  """Descends an objective over clips, and over labels that are soft.

  Args:
    objective: from `weighted_sum`.
    optimizer: any optax transform, those with a line search included.
    start: `(key, template) -> guess`; the key is consumed.
    project: maps any guess to an allowed one (the box [0, 1], say).
  """
  optimizer = optax.with_extra_args_support(optimizer)

  def init(key, template):
    guess = project(start(key, template))
    return AttackState(
        step=jnp.zeros((), jnp.int32),
        guess=guess,
        opt_state=optimizer.init(_moving(guess)),
        best=guess,
        best_loss=jnp.full((), jnp.inf))

  def update(state, target):
    def value_fn(moving):
      value, score, terms = objective(
          _with_moving(state.guess, moving), target, state.step)
      return value, (score, terms)

    moving = _moving(state.guess)
    (value, (score, terms)), grads = jax.value_and_grad(
        value_fn, has_aux=True)(moving)
    better = score < state.best_loss  # False for NaN: it never wins
    best = jax.tree.map(lambda new, old: jnp.where(better, new, old),
                        state.guess, state.best)
    steps, opt_state = optimizer.update(
        grads, state.opt_state, moving, value=value, grad=grads,
        value_fn=lambda moving: value_fn(moving)[0])
    guess = project(
        _with_moving(state.guess, optax.apply_updates(moving, steps)))
    state = AttackState(state.step + 1, guess, opt_state, best,
                        jnp.where(better, score, state.best_loss))
    return state, {'loss': value, **terms}

  return Attack(init, update)


def _moving(guess):
  """The part of a guess that is optimised: integer labels are not."""
  if jnp.issubdtype(guess.labels.dtype, jnp.integer):
    return {'clips': guess.clips}
  return guess._asdict()


def _with_moving(guess, moving):
  return guess._replace(**moving)


def _at(weight, step):
  return weight(step) if callable(weight) else weight
