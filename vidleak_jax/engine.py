"""Runs an iterative attack: all tries, all devices, in resumable chunks."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vidleak_jax import parallel
from vidleak_jax.attack import restarts
from vidleak_jax.attack.invert import Attack, AttackState
from vidleak_jax.checkpoint import Checkpoints
from vidleak_jax.progress import MetricsLog, Progress
from vidleak_jax.types import Guess, Leak, PRNGKey, Recovery, UserError


class Budget(NamedTuple):
  """How much an attack may spend, and where."""
  num_restarts: int
  num_steps: int
  chunk_steps: int    # between logs and checkpoints
  restart_batch: int  # tries vmapped together on one device
  devices: Sequence[jax.Device]


class Cost(NamedTuple):
  """What it spent, earlier runs of the same workdir included."""
  seconds_compile: float
  seconds_attack: float
  num_steps: int
  restart_steps: int  # of all messages and restarts


def run(
    attack: Attack, leak: Leak, templates: Guess, key: PRNGKey,
    budget: Budget, workdir: Path, *, tensorboard: bool = False,
) -> tuple[Recovery, Cost]:
  """Attacks every message of a leak.

  Continues from the newest checkpoint under `workdir`; on the same devices the
  answer then equals an uninterrupted run's bit for bit. The number of tries is
  padded to a multiple of the devices; what the padding finds is dropped.

  Args:
    attack: of one try.
    leak: what the server sees.
    templates: clip shapes and labels to start from, leaves [M, ...].
    key: all tries' randomness; consumed.
    budget: restarts, steps, devices.
    workdir: gets checkpoints/ and metrics.jsonl.
    tensorboard: also writes TensorBoard events.

  Raises:
    UserError: for an empty budget, when every restart of a message diverged, or
      when the disk is full.
  """
  for name in ('num_restarts', 'num_steps', 'chunk_steps'):
    if getattr(budget, name) < 1:
      raise UserError(
          f'attack.{name} is {getattr(budget, name)}; it must be 1 or more.')
  num_messages = len(templates.clips)
  count = num_messages * budget.num_restarts
  tries = restarts.plan(templates, budget.num_restarts,
                        parallel.padded(count, budget.devices))
  state = _start(attack, key, tries, budget.devices)
  checkpoints = Checkpoints(workdir / 'checkpoints')
  with MetricsLog(workdir / 'metrics.jsonl', tensorboard=tensorboard) as log:
    try:
      state, done, seconds = _restore(checkpoints, state, count, budget.devices)
      log.truncate_after(done)
      began = time.perf_counter()
      step = _compiled_step(attack, state, tries, leak, budget)
      seconds_compile = time.perf_counter() - began

      def after_chunk(state, terms, done, seconds):
        host = _rows(parallel.gather(state), count)
        checkpoints.save(done, host, {'step': done, 'seconds': seconds})
        row = _summary(host, parallel.gather(terms), tries, num_messages)
        log.write(done, seconds=seconds, **row)
        return row

      state, seconds = _loop(step, state, done, seconds, budget, after_chunk)
    finally:
      checkpoints.close()
  host = parallel.gather(state)
  cost = Cost(seconds_compile, seconds, budget.num_steps,
              count * budget.num_steps)
  return restarts.best(_rows(host, count), _rows(tries, count),
                       num_messages), cost


def _start(attack, key, tries, devices):
  """The state before the first step, placed as the step returns it."""
  start = parallel.on_devices(restarts.starter(attack), devices)
  data = parallel.replicate(jax.random.key_data(key), devices)
  return start(data, parallel.spread(tries, devices))


def _compiled_step(attack, state, tries, leak, budget):
  """`(state, num_steps) -> (state, terms)`, compiled once."""
  step = parallel.on_devices(restarts.runner(attack, budget.restart_batch),
                             budget.devices, donate=(0,))
  message = parallel.spread(tries.message, budget.devices)
  leak = parallel.replicate(leak._replace(labels=None), budget.devices)

  def steps(number):
    return parallel.replicate(jnp.int32(number), budget.devices)
  compiled = step.lower(state, message, leak, steps(1)).compile()
  return lambda state, number: compiled(state, message, leak, steps(number))


def _restore(checkpoints, state, count, devices):
  """(state, steps done, seconds spent) of the newest checkpoint, if any."""
  host = parallel.gather(state)
  restored = checkpoints.restore(_rows(host, count))
  if restored is None:
    return state, 0, 0.0
  rows, facts = restored
  # Rows of padding were not saved: they start anew and are dropped again.
  whole = jax.tree.map(
      lambda saved, fresh: np.concatenate([saved, fresh[count:]]), rows, host)
  return parallel.spread(whole, devices), facts['step'], facts['seconds']


def _loop(step, state, done, seconds, budget, after_chunk):
  """Chunks of steps on the device; logs and checkpoints between them."""
  earlier, began = seconds, time.perf_counter()
  with Progress(budget.num_steps, 'attack', done=done) as progress:
    while done < budget.num_steps:
      chunk = min(budget.chunk_steps, budget.num_steps - done)
      state, terms = step(state, chunk)
      jax.block_until_ready(state)
      done += chunk
      seconds = earlier + time.perf_counter() - began
      row = after_chunk(state, terms, done, seconds)
      progress.update(done, best_match=row['best_loss'])
  return state, seconds


def _rows(tree, count):
  return jax.tree.map(lambda leaf: leaf[:count], tree)


def _summary(states: AttackState, terms, tries, num_messages) -> dict[str, Any]:
  """Each term of each message's best try, averaged over messages."""
  loss = np.where(np.isfinite(states.best_loss), states.best_loss, np.inf)
  loss = loss.reshape(num_messages, -1)
  rows = loss.argmin(1) + np.arange(num_messages) * loss.shape[1]
  means = {name: float(np.mean(values[rows])) for name, values in terms.items()}
  return {**means, 'best_loss': float(loss.min(1).mean())}
