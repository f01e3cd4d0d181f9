"""Many independent tries of one attack: messages x restarts.

A try is a pair (message, restart). Its random numbers depend on (seed, message,
restart) only, so that neither the number of devices nor a resume changes it.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vidleak_jax.attack.invert import Attack, AttackState
from vidleak_jax.types import Array, Guess, Leak, Params, Recovery, UserError


class Tries(NamedTuple):
  """Which try each row is; all leaves have N rows."""
  message: Array  # [N] int32
  restart: Array  # [N] int32
  template: Guess  # [N, ...] start shape and labels of the try's message


def plan(templates: Guess, num_restarts: int, size: int) -> Tries:
  """All tries, message by message.

  Args:
    templates: leaves [M, ...].
    num_restarts: of each message.
    size: N; rows past M x num_restarts are extra restarts, to be dropped.
  """
  index = np.arange(size, dtype=np.int32)
  message = index // num_restarts % len(templates.clips)
  rows = jax.tree.map(lambda leaf: np.asarray(leaf)[message], templates)
  return Tries(message, index % num_restarts, rows)


def starter(attack: Attack) -> Callable[[Array, Tries], AttackState]:
  """`(key data, tries) -> states`, leaves [N, ...]."""

  def start(key_data, tries):
    key = jax.random.wrap_key_data(key_data)
    def one(message, restart, template):
      own = jax.random.fold_in(jax.random.fold_in(key, message), restart)
      return attack.init(own, template)
    return jax.vmap(one)(tries.message, tries.restart, tries.template)
  return start


def runner(attack: Attack, batch_size: int) -> Callable:
  """Takes steps of many tries.

  Args:
    attack: of one try.
    batch_size: how many tries are vmapped together; the others wait.

  Returns:
    A pure `(states, message, leak, num_steps) -> (states, terms)`; `terms` are
    those of the last step, leaves [N]. `num_steps` is an array, so that chunks
    of any length share one executable.
  """

  def run(states, message, leak, num_steps):
    def one(state, message):
      own = Leak(leak.params, take(leak.update, message), None)
      terms = jax.eval_shape(attack.update, state, own)[1]
      return lax.fori_loop(
          0, num_steps, lambda _, carry: attack.update(carry[0], own),
          (state, jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), terms)))

    together = _divisor(message.shape[0], batch_size)
    if together == message.shape[0]:
      return jax.vmap(one)(states, message)
    return lax.map(lambda args: one(*args), (states, message),
                   batch_size=together if together > 1 else None)
  return run


def take(update: Params, message: Array) -> Params:
  """The update of one message."""
  return jax.tree.map(lambda leaf: leaf[message], update)


def best(states: AttackState, tries: Tries, num_messages: int) -> Recovery:
  """The answer for each message: the try whose score is lowest.

  Raises:
    UserError: when no try of some message ever had a finite score.
  """
  loss = np.where(np.isfinite(states.best_loss), states.best_loss, np.inf)
  rows = []
  for message in range(num_messages):
    own = np.where(tries.message == message, loss, np.inf)
    if not np.isfinite(own).any():
      raise UserError(
          f'All restarts of message {message} diverged: no finite objective. '
          'Lower the learning rate or look for Inf in the leak.')
    rows.append(int(np.argmin(own)))
  clips, labels = (np.asarray(leaf)[rows] for leaf in states.best)
  if not jnp.issubdtype(labels.dtype, jnp.integer):
    labels = labels.argmax(-1)
  return Recovery(np.clip(clips, 0.0, 1.0), labels.astype(np.int32), loss[rows])


def _divisor(count, limit):
  """The largest divisor up to `limit`: a remainder would compile twice."""
  return max(d for d in range(1, max(1, min(count, limit)) + 1)
             if count % d == 0)
