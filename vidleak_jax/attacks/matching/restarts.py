"""Many independent tries of one attack: trials x messages x restarts.

A try is one start of one message of one trial. Its random numbers depend on
(the trial's key, message, restart) only, so that neither the number of devices,
nor the trials beside it, nor a resume changes it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vidleak_jax.attacks.matching.inversion import Attack, AttackState
from vidleak_jax.options import Numbers
from vidleak_jax.types import Array, Guess, Recovery, Target, UserError

Build = Callable[[dict[str, Array]], Attack]  # from a recipe's numbers


class Trials(NamedTuple):
  """What K attacks of one program have of their own; leaves [K, ...]."""
  target: Target           # params [K, ...], evidence [K, M, ...]
  numbers: Numbers  # of the recipe: weights, rates, ...
  key_data: Array          # of each trial's own randomness


class Tries(NamedTuple):
  """Which try each row is; all leaves have N rows."""
  trial: Array    # [N] int32
  message: Array  # [N] int32, within the trial
  restart: Array  # [N] int32
  template: Guess  # [N, ...] start shape and labels of the try's message


def plan(templates: Guess, num_restarts: int, size: int) -> Tries:
  """Returns all tries, trial by trial and message by message.

  Args:
    templates: leaves [K, M, ...].
    num_restarts: of each message.
    size: N; rows past K x M x num_restarts repeat the first ones.
  """
  num_trials, num_messages = np.shape(templates.clips)[:2]
  index = np.arange(size, dtype=np.int32)
  message = index // num_restarts % (num_trials * num_messages)
  trial, message = np.divmod(message, np.int32(num_messages))
  rows = jax.tree.map(lambda leaf: np.asarray(leaf)[trial, message], templates)
  return Tries(trial, message, index % num_restarts, rows)


def num_rows(count: int, num_devices: int, batch_size: int) -> int:
  """Returns how many rows `count` tries take, padding included.

  The devices get equal shares, and a share is cut into equal batches of at most
  `batch_size`: an uneven rest would compile twice.
  """
  share = -(-count // num_devices)
  batches = -(-share // batch_size)
  return num_devices * batches * -(-share // batches)


def starter(build: Build) -> Callable[[Tries, Trials], AttackState]:
  """`(tries, trials) -> states`, leaves [N, ...]."""

  def start(tries, trials):
    def one(each):
      own = _take(trials, each.trial)
      key = jax.random.wrap_key_data(own.key_data)
      key = jax.random.fold_in(key, each.message)
      key = jax.random.fold_in(key, each.restart)
      return build(own.numbers).init(key, each.template)
    return jax.vmap(one)(tries)
  return start


def runner(build: Build, batch_size: int) -> Callable:
  """Takes steps of many tries.

  Args:
    build: the attack of one try.
    batch_size: how many tries are vmapped together; the others wait.

  Returns:
    A pure `(states, tries, trials, num_steps [N]) -> (states, terms)`; `terms`
    are those of the last step, leaves [N]. The steps are an array, so that
    chunks of any length share one executable; tries that are vmapped together
    all take the most that one of them is given, so that only padding may be
    given less.
  """

  def run(states, tries, trials, num_steps):
    together = _divisor(len(num_steps), batch_size)

    def one(state, trial, message, steps):
      own = _take(trials, trial)
      attack = build(own.numbers)
      target = Target(own.target.params, _take(own.target.evidence, message))
      terms = jax.eval_shape(attack.update, state, target)[1]
      return lax.fori_loop(
          0, steps, lambda _, carry: attack.update(carry[0], target),
          (state, jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), terms)))

    def batch(rows):
      *arguments, steps = rows
      return jax.vmap(one, (0, 0, 0, None))(*arguments, jnp.max(steps))

    def turn(rows):
      return batch(rows) if together > 1 else one(*rows)

    rows = states, tries.trial, tries.message, num_steps
    if together == 1:  # one after another: a vmap of one is slower
      return lax.map(turn, rows)
    if together == len(num_steps):
      return batch(rows)
    rows = jax.tree.map(
        lambda leaf: leaf.reshape(-1, together, *leaf.shape[1:]), rows)
    return jax.tree.map(
        lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), lax.map(turn, rows))
  return run


def best_half(loss: np.ndarray, alive: np.ndarray, groups: np.ndarray
              ) -> np.ndarray:
  """Drops the worse half of each group's tries (1502.07943, algorithm 1).

  Args:
    loss: [N] scores, lower is better; NaN is worst.
    alive: [N] bool.
    groups: [N] which tries compete: those of one message of one trial.

  Returns:
    [N] bool: of each group's living tries the better half, rounded up.
  """
  loss = np.where(np.isfinite(loss), loss, np.inf)
  kept = np.zeros_like(alive)
  for group in np.unique(groups[alive]):
    rows = np.flatnonzero(alive & (groups == group))
    order = rows[np.argsort(loss[rows], kind='stable')]
    kept[order[:-(-len(rows) // 2)]] = True
  return kept


def best(states: AttackState, tries: Tries, trial: int,
         alive: np.ndarray | None = None) -> Recovery:
  """Returns a trial's answer: for each message the try of the lowest score.

  Args:
    states: of all tries, leaves [N, ...].
    tries: which try each row is.
    trial: whose answer it is.
    alive: [N] bool, the tries that may answer: those that no halving dropped;
      None: all.

  Raises:
    UserError: when no try of some message ever had a finite score.
  """
  usable = np.isfinite(states.best_loss)
  usable = usable if alive is None else usable & alive
  loss = np.where(usable, states.best_loss, np.inf)
  rows = []
  for message in np.unique(tries.message):
    losses = np.where(
        (tries.trial == trial) & (tries.message == message), loss, np.inf)
    if not np.isfinite(losses).any():
      raise UserError(
          f'All restarts of message {message} diverged: no finite objective. '
          'Lower the learning rate or look for Inf in the leak.')
    rows.append(int(np.argmin(losses)))
  clips, labels = (np.asarray(leaf)[rows] for leaf in states.best)
  if not jnp.issubdtype(labels.dtype, jnp.integer):
    labels = labels.argmax(-1)
  return Recovery(np.clip(clips, 0.0, 1.0), labels.astype(np.int32), loss[rows])


def _take(tree: Any, index: Array) -> Any:
  """Row `index`; of a single row without asking, so that vmap shares it."""
  return jax.tree.map(
      lambda leaf: leaf[0] if len(leaf) == 1 else leaf[index], tree)


def _divisor(count, limit):
  """The largest divisor up to `limit`: a remainder would compile twice."""
  return max(d for d in range(1, max(1, min(count, limit)) + 1)
             if count % d == 0)
