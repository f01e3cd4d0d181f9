"""Runs iterative attacks: all tries, all devices, in resumable chunks.

Trials that differ in numbers only share one program, and so one compile.
"""

import itertools
import time
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from vidleak_jax.attacks.matching import restarts
from vidleak_jax.attacks.matching.inversion import AttackState
from vidleak_jax.runtime import parallel
from vidleak_jax.runtime import programs as programs_lib
from vidleak_jax.runtime.run_logger import RunLogger
from vidleak_jax.types import Guess, Leak, PRNGKey, Recovery, UserError, attempt


class Budget(NamedTuple):
  """How much a trial may spend, and where."""
  num_restarts: int
  num_steps: int      # of each restart, if none is dropped
  chunk_steps: int    # between logs and checkpoints
  restart_batch: int  # tries vmapped together on one device
  devices: Sequence[jax.Device]
  halve_at: tuple[int, ...] = ()  # steps after which the worse half is dropped
  keep_checkpoints: int = 2       # the newest; 0: all

  @property
  def last_step(self) -> int:
    """Where the survivors end: they inherit the steps of those dropped."""
    spent, tries, last = 0, self.num_restarts, 0
    for step in self.halve_at:
      spent += tries * (step - last)
      tries, last = -(-tries // 2), step
    return last + (self.num_restarts * self.num_steps - spent) // tries


  def checked(self) -> 'Budget':
    """Itself.

    Raises:
      UserError: for an empty budget, or one that ends before its halvings.
    """
    for name in ('num_restarts', 'num_steps', 'chunk_steps'):
      if getattr(self, name) < 1:
        raise UserError(
            f'attack.{name} is {getattr(self, name)}; it must be 1 or more.')
    ends = (0, *self.halve_at, self.last_step)
    if any(b <= a for a, b in itertools.pairwise(ends)):
      raise UserError(
          f'attack.halve_at is {self.halve_at}; it must rise, and leave steps '
          f'of {self.num_restarts} x {self.num_steps} to those that survive.')
    return self


class Trial(NamedTuple):
  """One attack, and what is its own among those that share a program."""
  leak: Leak
  templates: Guess          # leaves [M, ...]: clip shapes, labels to start from
  key: PRNGKey              # all its randomness; consumed
  numbers: dict[str, Any]   # of its recipe
  folder: Path              # gets metrics.jsonl


class Cost(NamedTuple):
  """A trial's share of the time; earlier runs of the workdir included."""
  seconds_compile: float
  seconds_attack: float
  num_steps: int
  restart_steps: int  # of all messages and restarts


def run(
    build: restarts.Build, trials: Sequence[Trial], budget: Budget,
    folder: Path, *, tensorboard: bool = False, key: Hashable | None = None,
    programs: programs_lib.ProgramCache | None = None,
) -> tuple[list[Recovery | UserError], Cost]:
  """Attacks every message of every trial, in one program.

  Continues from the newest checkpoint under `folder`; on the same devices the
  answer then equals an uninterrupted run's bit for bit. The number of tries is
  padded to a multiple of the devices; the padding takes no steps.

  Args:
    build: the attack of one try, from a trial's numbers.
    trials: of equal shapes.
    budget: restarts, steps, devices.
    folder: gets checkpoints/.
    tensorboard: also writes TensorBoard events to the trials' folders.
    key: all that `build` depends on, compared by value: attacks of equal keys
      share their compiled programs. None: the function `build` stands for it.
    programs: where the compiled programs are kept; None: the runtime's cache.

  Returns:
    Of each trial its recovery, or the error that it diverged; and what one
    trial cost.

  Raises:
    UserError: when the disk is full.
  """
  templates = jax.tree.map(
      lambda *leaves: np.stack(leaves), *(t.templates for t in trials))
  count = templates.clips.shape[0] * templates.clips.shape[1]
  count *= budget.num_restarts
  tries = restarts.plan(templates, budget.num_restarts,
                        parallel.padded(count, budget.devices))
  programs = programs_lib.default() if programs is None else programs
  starter, step = programs.get(
      (build if key is None else key, budget.restart_batch,
       tuple(budget.devices)),
      lambda: _programs(build, budget.restart_batch, budget.devices))
  machine = _Machine(starter, step, tries, _stack(trials), budget.devices)
  with RunLogger(folder, [trial.folder for trial in trials],
               tensorboard=tensorboard,
               keep=budget.keep_checkpoints) as logger:
    fresh = machine.start()
    rows, facts = logger.resume(_rows(fresh, count))
    # Rows of padding were not saved, and are not needed.
    state = jax.tree.map(
        lambda saved, new: np.concatenate([saved, new[count:]]), rows, fresh)
    state, seconds, seconds_compile = _loop(
        machine, state, facts, count, budget, logger)
  cost = Cost(seconds_compile / len(trials), seconds / len(trials),
              budget.last_step, int(state.step[:count].sum()) // len(trials))
  return [attempt(restarts.best, _rows(state, count), _rows(tries, count), k)
          for k in range(len(trials))], cost


class _Machine:
  """The compiled step, and which device works on which try."""

  def __init__(self, starter, step, tries, shared, devices):
    self.tries, self._devices = tries, devices
    self._shared = parallel.replicate(shared, devices)
    self._starter, self._step = starter, step

  def start(self):
    """All tries before their first step, on the host."""
    placed = parallel.spread(self.tries, self._devices)
    return parallel.gather(self._starter(placed, self._shared))

  def place(self, state, alive):
    """Deals the living tries out evenly; on each device they come first."""
    order = np.argsort(~alive, kind='stable')
    if not alive.all():
      count = len(self._devices)
      order = np.concatenate([order[d::count] for d in range(count)])
    self._alive, self._back = alive[order], np.argsort(order)
    self._state, self._placed = parallel.spread(
        _pick((state, self.tries), order), self._devices)

  def run(self, num_steps):
    """(states, terms of the last step) on the host, in the tries' order."""
    steps = np.where(self._alive, num_steps, 0).astype(np.int32)
    self._state, terms = self._step(
        self._state, self._placed, self._shared,
        parallel.spread(steps, self._devices))
    return _pick(parallel.gather((self._state, terms)), self._back)


def _programs(build, restart_batch, devices):
  """Returns the start and the step, each for all devices."""
  return (parallel.on_devices(restarts.starter(build), devices),
          parallel.on_devices(restarts.runner(build, restart_batch), devices,
                              donate=(0,)))


def _loop(machine, state, facts, count, budget, logger):
  """Chunks of steps on the devices; logs and checkpoints between them."""
  tries, trial = machine.tries, machine.tries.trial[:count]
  rivals = tries.trial * (tries.message.max() + 1) + tries.message
  own = [np.flatnonzero(trial == k) for k in range(trial.max() + 1)]
  done, earlier = facts.get('step', 0), facts.get('seconds', 0.0)
  alive = (np.arange(len(rivals)) < count) & (state.step == done)
  began = time.perf_counter()
  machine.place(state, alive)
  machine.run(0)  # compiles, and changes nothing
  seconds, seconds_compile = earlier, time.perf_counter() - began
  began = time.perf_counter()
  logger.start(budget.last_step, done)
  while done < budget.last_step:
    if done in budget.halve_at:
      alive = restarts.best_half(state.best_loss, alive, rivals)
      machine.place(state, alive)
    stop = min(s for s in (*budget.halve_at, budget.last_step) if s > done)
    chunk = min(budget.chunk_steps, stop - done)
    state, terms = machine.run(chunk)
    done += chunk
    seconds = earlier + time.perf_counter() - began
    logger.write(done, _rows(state, count), seconds, [
        _summary(*_pick((state, terms, tries.message), rows)) for rows in own])
  return state, seconds, seconds_compile


def _stack(trials) -> restarts.Trials:
  """What the trials have of their own, leaves [K, ...]."""
  own = [restarts.Trials(
      Leak(t.leak.params, t.leak.update, None), t.numbers,
      jax.random.key_data(t.key)) for t in trials]
  return jax.tree.map(
      lambda *leaves: np.stack([_strong(leaf) for leaf in leaves]), *own)


def _strong(leaf):
  """Numbers in the type that JAX computes in."""
  return np.float32(leaf) if isinstance(leaf, float) else np.asarray(leaf)


def _pick(tree, rows):
  return jax.tree.map(lambda leaf: leaf[rows], tree)


def _rows(tree, count):
  return jax.tree.map(lambda leaf: leaf[:count], tree)


def _summary(states: AttackState, terms, message) -> dict[str, Any]:
  """Each term of each message's best try, averaged over messages."""
  loss = np.where(np.isfinite(states.best_loss), states.best_loss, np.inf)
  own = [np.flatnonzero(message == each) for each in np.unique(message)]
  rows = [rows[loss[rows].argmin()] for rows in own]
  means = {name: float(np.mean(values[rows])) for name, values in terms.items()}
  return {**means, 'best_loss': float(loss[rows].mean())}
