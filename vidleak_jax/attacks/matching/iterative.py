"""Attacks that iterate on the pixels, from many starts on many devices.

Problems of equal structure run as one program: their traced numbers, seeds and
updates are its arguments.
"""

import dataclasses
import math
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from vidleak_jax import options
from vidleak_jax.attacks import labels
from vidleak_jax.attacks.analytic.polish import polished
from vidleak_jax.attacks.base import (
  CUT,
  Attack,
  Cost,
  Effort,
  Outcome,
  Problem,
)
from vidleak_jax.attacks.matching import engine, recipe
from vidleak_jax.attacks.matching.match import Term
from vidleak_jax.attacks.residual import gradient_residual
from vidleak_jax.types import (
  Guess,
  Leak,
  Recovery,
  Row,
  Target,
  UserError,
  Victim,
)


@dataclasses.dataclass(frozen=True)
class Iterative(recipe.Recipe, Attack):
  """Base of attacks that descend an objective."""

  def term(self, victim: Victim, leak: Leak) -> Term:
    """Returns the match; it depends on the victim and public facts alone.

    It is called on options whose traced numbers may be under trace.
    """
    raise NotImplementedError

  def prepare(self, problems: Sequence[Problem]) -> list[Target | UserError]:
    """Returns what each problem's match is held against; or why it cannot."""
    return [Target(p.leak.params, p.leak.update) for p in problems]

  def templates(self, problem: Problem, target: Target) -> Guess:
    """Returns start shapes, and labels: known, inferred, or to be optimised.

    Args:
      problem: what the attacker has.
      target: of `prepare`.

    Returns:
      Leaves [M, ...].
    """
    del target
    leak, victim = problem.leak, problem.victim
    shape = leak.num_updates, leak.public.batch_size
    clips = np.zeros((*shape, *leak.public.clip_shape), np.float32)
    if self.labels == 'joint':
      return Guess(clips, np.zeros((*shape, victim.num_classes), np.float32))
    if leak.labels is not None:
      return Guess(clips, np.asarray(leak.labels))
    return Guess(clips, np.stack(
        [each.labels for each in labels.infer_all(leak, victim.head)]))

  def finish(self, problem: Problem, target: Target, outcome: Outcome
             ) -> Outcome:
    """Returns the answer after what follows the descent: a polish.

    Args:
      problem: what the attacker has.
      target: of `prepare`.
      outcome: of the descent.
    """
    del target
    return polished(
        problem, outcome, self.polish_steps, self.polish_inner_steps)

  def easier(self, problem: Problem, outcome: Outcome) -> Problem | None:
    """Returns a part of the problem to try as well, after a poor answer.

    The gradient residual of the whole problem decides between both answers.

    Args:
      problem: what the attacker has.
      outcome: what came of it.
    """
    del problem, outcome
    return None

  def run(self, problem: Problem, effort: Effort) -> Outcome:
    """See `Attack.run`."""
    outcome, = solve([problem], [self], effort, problem.session.folder)
    if isinstance(outcome, UserError):
      raise outcome
    return outcome


def solve(
    problems: Sequence[Problem], attacks: Sequence[Iterative], effort: Effort,
    folder: Path | None,
) -> list[Outcome | UserError]:
  """Runs one attack on some problems, as one program where they allow it.

  Args:
    problems: of equal shapes and public facts, but for numbers.
    attacks: one a problem, equal but for traced numbers.
    effort: restarts and steps, the same for all.
    folder: gets the checkpoints; None: nothing is written.

  Returns:
    One outcome a problem, or why there is none.

  Raises:
    UserError: where the attack does not apply to such a leak.
  """
  first, attack = problems[0], attacks[0]
  attack.check(first.victim, first.leak)
  structure, _ = options.split(attack.replace(
      num_steps=1, polish_steps=0, polish_inner_steps=1))
  began = time.perf_counter()
  targets = attack.prepare(problems)
  seconds = (time.perf_counter() - began) / len(problems)
  outcomes: list = list(targets)
  trials = {i: engine.Trial(
      target, attacks[i].templates(problems[i], target), problems[i].key,
      options.split(attacks[i])[1], problems[i].session.folder)
            for i, target in enumerate(targets) if isinstance(target, Target)}
  if not trials:
    return outcomes
  count = sum(len(trial.templates.clips) for trial in trials.values())
  budget = engine.Budget(
      num_restarts=effort.num_restarts,
      num_steps=effort.num_steps or attack.num_steps,
      chunk_steps=effort.chunk_steps,
      restart_batch=first.session.choices.restart_batch,
      devices=_enough(first.session.devices, count * effort.num_restarts),
      halve_at=effort.halve_at,
      keep_checkpoints=effort.keep_checkpoints).checked()
  for part, rows in _programs(trials):
    example = problems[rows[0]]

    def build(numbers, example=example):
      bound = options.bind(structure, numbers)
      return recipe.build(bound.term(example.victim, example.leak),
                          budget.last_step, bound)

    evidence = trials[rows[0]].target.evidence
    results, cost = engine.run(
        build, [trials[i] for i in rows], budget, folder and folder / part,
        tensorboard=first.session.tensorboard, report=first.session.report,
        deadline=_deadline(first.session),
        key=(structure, budget.last_step, example.victim.key,
             example.leak.public.federated, example.leak.public.batch_size,
             jax.tree.structure(evidence)))
    cost = cost._replace(seconds_attack=cost.seconds_attack + seconds)
    for i, each in zip(rows, results, strict=True):
      outcomes[i] = (each if isinstance(each, UserError)
                     else Outcome(each, cost, _about_labels(
                         problems[i], attacks[i]) | _cut(
                             cost.num_steps, budget.last_step)))
  for i, one in enumerate(outcomes):
    if isinstance(one, UserError) or CUT in one.findings:
      continue
    outcomes[i] = attacks[i].finish(problems[i], targets[i], one)
    part = attacks[i].easier(problems[i], outcomes[i])
    if part is not None:
      other, = solve([part], [attacks[i]], effort, part.session.folder)
      outcomes[i] = better(problems[i], outcomes[i], other)
  return outcomes


def better(problem: Problem, one: Outcome, other: Outcome | UserError
           ) -> Outcome:
  """Of each update the answer whose gradient residual is smaller."""
  if isinstance(other, UserError):
    return one
  first, second = (gradient_residual(
      problem.victim, problem.leak, each.recovery.clips, each.recovery.labels)
                   for each in (one, other))
  where = second < first
  findings = (other if second.mean() < first.mean() else one).findings
  return Outcome(
      Recovery(*(None if a is None or b is None else np.where(
          where.reshape(-1, *[1] * (np.ndim(a) - 1)), b, a)
                 for a, b in zip(one.recovery, other.recovery, strict=True))),
      Cost(*(a + b for a, b in zip(one.cost, other.cost, strict=True))),
      findings | {'residual_of_all': float(first.max()),
                  'residual_of_a_part': float(second.max()),
                  'answers_of_a_part': int(where.sum())})


def _deadline(session) -> float:
  return math.inf if session.deadline is None else session.deadline


def _cut(done: int, total: int) -> Row:
  """What says that the session's time was over before all steps were done."""
  return {CUT: f'stopped after {done} of {total} steps'} if done < total else {}


def _about_labels(problem: Problem, attack: Iterative) -> Row:
  """Whether inferred labels are proven, for result.json."""
  if attack.labels == 'joint' or problem.leak.labels is not None:
    return {}
  estimates = labels.infer_all(problem.leak, problem.victim.head)
  notes = sorted({each.note for each in estimates if not each.certain})
  return {'labels_certified': not notes} | (
      {'labels_note': ' '.join(notes)} if notes else {})


def _programs(trials):
  """Yields (folder for the checkpoints, indices) of trials that run as one.

  Those whose targets have equal structures do. The folder is '' for the first,
  so that a lone trial's are where its workdir promises them.
  """
  parts: dict = {}
  for i, trial in trials.items():
    shapes = tuple(np.shape(x) for x in jax.tree.leaves(trial.target.evidence))
    key = jax.tree.structure(trial.target.evidence), shapes
    parts.setdefault(key, []).append(i)
  for number, rows in enumerate(parts.values()):
    yield str(number or ''), rows


def _enough(devices, tries):
  """No more than there is work for; of several processes always all."""
  if any(d.process_index != devices[0].process_index for d in devices):
    return devices
  return devices[:tries]
