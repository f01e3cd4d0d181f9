"""Runs iterative attacks: all tries, all devices, in resumable chunks.

Trials that differ in numbers only share one program, and so one compile.
"""

import itertools
import math
import time
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from vidleak_jax.attacks.base import Cost
from vidleak_jax.attacks.matching import restarts
from vidleak_jax.attacks.matching.inversion import AttackState
from vidleak_jax.options import Numbers
from vidleak_jax.runtime import memory, parallel
from vidleak_jax.runtime import programs as programs_lib
from vidleak_jax.runtime.run_logger import RunLogger
from vidleak_jax.runtime.session import Report
from vidleak_jax.types import (
  Guess,
  PRNGKey,
  Recovery,
  Row,
  Target,
  UserError,
  attempt,
)


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
  target: Target            # evidence [M, ...]
  templates: Guess          # leaves [M, ...]: clip shapes, labels to start from
  key: PRNGKey              # all its randomness; consumed
  numbers: Numbers          # of its recipe
  folder: Path | None       # gets metrics.jsonl


def run(
    build: restarts.Build, trials: Sequence[Trial], budget: Budget,
    folder: Path | None, *, tensorboard: bool = False,
    report: Report | None = None, key: Hashable | None = None,
    programs: programs_lib.ProgramCache | None = None,
    deadline: float = math.inf,
) -> tuple[list[Recovery | UserError], Cost]:
  """Attacks every message of every trial, in one program.

  Continues from the newest checkpoint under `folder`; on the same devices the
  answer then equals an uninterrupted run's bit for bit. The number of tries is
  padded to fill the devices; the padding is dropped. After each halving the
  survivors move together into a smaller program (one compile a size), so that
  no work is spent on those that were dropped.

  Args:
    build: the attack of one try, from a trial's numbers.
    trials: of equal shapes.
    budget: restarts, steps, devices.
    folder: gets checkpoints/; None: nothing is written.
    tensorboard: also writes TensorBoard events to the trials' folders.
    report: hears of progress.
    key: all that `build` depends on, compared by value: attacks of equal keys
      share their compiled programs. None: the function `build` stands for it.
    programs: where the compiled programs are kept; None: the runtime's cache.
    deadline: of `time.monotonic()`: no chunk but the first begins after it, and
      the answer is the best so far. The cost tells how many steps were done.

  Returns:
    Of each trial its recovery, or the error that it diverged; and what one
    trial cost.

  Raises:
    UserError: when the disk is full, or so many restarts do not fit in memory.
  """
  programs = programs_lib.default() if programs is None else programs
  key = build if key is None else key
  _check_memory(build, trials, budget, key, programs)
  templates = jax.tree.map(
      lambda *leaves: np.stack(leaves), *(t.templates for t in trials))
  num_trials, num_messages = templates.clips.shape[:2]
  tries = restarts.plan(templates, budget.num_restarts,
                        num_trials * num_messages * budget.num_restarts)
  starter, step = programs.get(
      (key, budget.restart_batch, tuple(budget.devices)),
      lambda: _programs(build, budget.restart_batch, budget.devices))
  machine = _Machine(starter, step, tries, _stack(trials), budget)
  with RunLogger(folder, [trial.folder for trial in trials],
               tensorboard=tensorboard,
               keep=budget.keep_checkpoints, report=report) as logger:
    state, facts = logger.resume(machine.start())
    done, state, alive, seconds, seconds_compile = _loop(
        machine, state, facts, budget, logger, deadline)
  cost = Cost(seconds_compile / len(trials), seconds / len(trials), done,
              int(state.step.sum()) // len(trials))
  return [attempt(restarts.best, state, tries, k, alive)
          for k in range(len(trials))], cost


class _Machine:
  """The compiled step, and which device works on which try."""

  def __init__(self, starter, step, tries, shared, budget):
    self.tries, self._budget = tries, budget
    self._shared = parallel.replicate(shared, budget.devices)
    self._starter, self._step = starter, step

  def start(self):
    """Returns all tries before their first step, on the host."""
    rows, _ = self._rows(np.arange(len(self.tries.trial)))
    placed = parallel.spread(_pick(self.tries, rows), self._budget.devices)
    return _first(parallel.gather(self._starter(placed, self._shared)),
                  len(self.tries.trial))

  def place(self, state, alive):
    """Loads the living tries, and no others, and compiles for that many."""
    living = np.flatnonzero(alive)
    rows, self._is_real = self._rows(living)
    self._count = len(living)
    self._state, self._placed = parallel.spread(
        _pick((state, self.tries), rows), self._budget.devices)
    self.run(0)

  def run(self, num_steps):
    """Returns (states, terms of the last step) of the living, on the host."""
    steps = np.where(self._is_real, num_steps, 0).astype(np.int32)
    self._state, terms = self._step(
        self._state, self._placed, self._shared,
        parallel.spread(steps, self._budget.devices))
    return _first(parallel.gather((self._state, terms)), self._count)

  def _rows(self, living):
    """Returns (rows, which are not padding): padding repeats the last one."""
    size = restarts.num_rows(len(living), len(self._budget.devices),
                             self._budget.restart_batch)
    rows = np.pad(living, (0, size - len(living)), mode='edge')
    return rows, np.arange(size) < len(living)


def _check_memory(build, trials, budget, key, programs):
  """Refuses, before anything is allocated, what does not fit."""
  first = trials[0]
  template, update = jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype),
      (first.templates, first.target.evidence))
  attack = build(first.numbers)
  state = jax.eval_shape(attack.init, first.key, template)
  needs = memory.Needs(
      state=memory.tree_bytes(state), working=0,
      shared=len(trials) * memory.tree_bytes(first.target))
  count = len(trials) * len(first.templates.clips)

  def check(needs):
    memory.check(
        needs, num_restarts=budget.num_restarts, devices=budget.devices,
        batch_size=budget.restart_batch,
        rows_of=lambda restarts_each: restarts.num_rows(
            count * restarts_each, len(budget.devices), budget.restart_batch))
  check(needs)  # at once; a step takes seconds to trace
  shapes = tuple((leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves(
      (template, update)))
  check(needs._replace(working=programs.get(
      ('working', key, shapes), lambda: memory.working_bytes(
          attack.update, state, Target(first.target.params, update)))))


def _programs(build, restart_batch, devices):
  """Returns the start and the step, each for all devices."""
  return (parallel.on_devices(restarts.starter(build), devices),
          parallel.on_devices(restarts.runner(build, restart_batch), devices,
                              donate=(0,)))


def _loop(machine, state, facts, budget, logger, deadline):
  """Chunks of steps on the devices; logs and checkpoints between them.

  Returns:
    (steps done, states of all tries, which are alive, seconds, seconds of
    compilation).
  """
  tries = machine.tries
  rivals = tries.trial * (tries.message.max() + 1) + tries.message
  done, earlier = facts.get('step', 0), facts.get('seconds', 0.0)
  alive = _unpacked(facts.get('alive'), len(rivals))
  seconds, seconds_compile, placed = earlier, 0.0, False
  began = time.perf_counter()
  logger.start(budget.last_step, done)
  while done < budget.last_step and (
      not done or time.monotonic() < deadline):
    if done in budget.halve_at:
      alive, placed = restarts.best_half(state.best_loss, alive, rivals), False
    if not placed:
      since = time.perf_counter()
      machine.place(state, alive)
      seconds_compile += time.perf_counter() - since
      placed = True
    stop = min(s for s in (*budget.halve_at, budget.last_step) if s > done)
    chunk = min(budget.chunk_steps, stop - done)
    living, terms = machine.run(chunk)
    state = _merged(state, living, alive)
    done += chunk
    seconds = earlier + time.perf_counter() - began - seconds_compile
    logger.write(done, state, seconds,
                 _summaries(living, terms, _pick(tries, alive)),
                 alive=_packed(alive))
  return done, state, alive, seconds, seconds_compile


def _merged(state, living, alive):
  """The states of all tries, with those of the living in their places.

  They are new arrays: a checkpoint of the old ones may still be written.
  """
  def put(old, new):
    if alive.all():
      return new
    merged = np.array(old)
    merged[alive] = new
    return merged
  return jax.tree.map(put, state, living)


def _packed(alive) -> str:
  """One bit a try, in hexadecimal digits: small enough for a fact."""
  return np.packbits(alive).tobytes().hex()


def _unpacked(text, count):
  if text is None:
    return np.ones(count, bool)
  bits = np.frombuffer(bytes.fromhex(text), np.uint8)
  return np.unpackbits(bits, count=count).astype(bool)


def _stack(trials) -> restarts.Trials:
  """What the trials have of their own, leaves [K, ...]."""
  rows = [restarts.Trials(t.target, t.numbers, jax.random.key_data(t.key))
          for t in trials]
  return jax.tree.map(
      lambda *leaves: np.stack([_strong(leaf) for leaf in leaves]), *rows)


def _strong(leaf):
  """Numbers in the type that JAX computes in."""
  return np.float32(leaf) if isinstance(leaf, float) else np.asarray(leaf)


def _pick(tree, rows):
  return jax.tree.map(lambda leaf: leaf[rows], tree)


def _first(tree, count):
  return jax.tree.map(lambda leaf: leaf[:count], tree)


def _summaries(states, terms, tries) -> list[Row]:
  """Of each trial a row for metrics.jsonl, from its living tries."""
  return [_summary(*_pick((states, terms, tries.message), tries.trial == k))
          for k in range(tries.trial.max() + 1)]


def _summary(states: AttackState, terms, message) -> Row:
  """Each term of each message's best try, averaged over messages."""
  loss = np.where(np.isfinite(states.best_loss), states.best_loss, np.inf)
  groups = [np.flatnonzero(message == each) for each in np.unique(message)]
  rows = [rows[loss[rows].argmin()] for rows in groups]
  means = {name: float(np.mean(values[rows])) for name, values in terms.items()}
  return {**means, 'best_loss': float(loss[rows].mean())}
