"""Attacks tried one after the other on one problem, and what came of each.

Answers are kept in the workdir, a folder an attack, and found there again.
"""

import functools
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from vidleak_jax import files
from vidleak_jax.attacks.base import (
    CUT,
    Attack,
    Cost,
    Effort,
    Outcome,
    Problem,
)
from vidleak_jax.attacks.residual import gradient_residual
from vidleak_jax.types import Recovery, Row, UserError

FOLDER = 'checkpoints'  # a folder an attack in here, with all it writes
POLISH = 'polish'  # the name of that attempt


class Attempt(NamedTuple):
  """One attack that was tried, or why it was not."""
  name: str
  gradient_residual: float | None  # the mean over updates
  seconds: float
  why_not: str  # '' where it ran to its end


Refined = tuple[Outcome, Attempt]


class Explored(NamedTuple):
  """What came of some attacks."""
  attempts: tuple[Attempt, ...]
  # of those that answered, in order; POLISH: the best of them, polished
  outcomes: dict[str, Outcome]
  seconds: float                # earlier runs of the same workdir included

  @property
  def best(self) -> Outcome | None:
    """The best answer to each update, in one outcome."""
    return merged_all(self.outcomes)


def explore(
    problem: Problem, effort: Effort, candidates: Sequence[Attack],
    why_stop: Callable[[float, Outcome | None], str],
    seconds: float | None = None,
    polish: Callable[[Outcome, float], Refined | None] | None = None,
) -> Explored:
  """Tries attacks in order.

  Args:
    problem: what the attacker has.
    effort: of each iterative attack.
    candidates: the attacks.
    why_stop: why no other is begun, from the seconds spent and the best answer
      so far; '' to go on.
    seconds: after which the attack that runs is stopped, too; None: never.
    polish: what becomes of the best answer, from it and the seconds spent,
      asked after each attack that came closer; None, or no answer: nothing.
  """
  attempts: list[Attempt] = []
  outcomes: dict[str, Outcome] = {}
  spent, best = 0.0, None
  for attack in candidates:
    reasons = attack.requires(problem.victim, problem.leak)
    if reasons:
      attempts.append(Attempt(attack.name, None, 0.0, '; '.join(reasons)))
      continue
    if why := why_stop(spent, best):
      attempts.append(Attempt(attack.name, None, 0.0, f'not tried: {why}'))
      continue
    session = problem.session if seconds is None else problem.session.until(
        seconds - spent)
    began = time.perf_counter()
    outcome = answer(attack, problem._replace(session=session), effort)
    if isinstance(outcome, UserError):
      row = Attempt(attack.name, None, time.perf_counter() - began,
                    f'failed: {outcome}')
    else:
      row = Attempt(
          attack.name, float(residuals(outcome).mean()),
          outcome.cost.seconds_attack + outcome.cost.seconds_compile,
          outcome.findings.get(CUT, ''))
      if problem.session.report:
        problem.session.report(
            'auto', len(attempts) + 1, len(candidates),
            attack=attack.name, gradient_residual=row.gradient_residual)
      outcomes[attack.name] = outcome._replace(findings=outcome.findings | {
          'attack': attack.name,
          'attack_per_update': [attack.name] * problem.leak.num_updates})
    attempts.append(row)
    spent += row.seconds
    if isinstance(outcome, UserError):
      continue
    before, best = best, merged_all(outcomes)
    came_closer = before is None or np.any(residuals(best) < residuals(before))
    if polish and came_closer and (refined := polish(best, spent)):
      best, row = refined
      if row.gradient_residual is not None:
        outcomes[POLISH] = best
      attempts.append(row)
      spent += row.seconds
  return Explored(tuple(attempts), outcomes, spent)


def residuals(outcome: Outcome) -> np.ndarray:
  """Returns the gradient residual of each update's answer, [M]."""
  return np.asarray(outcome.recovery.gradient_residual)


def merged(best: Outcome, other: Outcome) -> Outcome:
  """The better answer to each update; what is said is of the better attack."""
  one, two = best.recovery, other.recovery
  wins = residuals(other) < residuals(best)
  lead = other if residuals(other).mean() < residuals(best).mean() else best

  def pick(a, b):
    return np.where(wins.reshape(-1, *[1] * (np.ndim(a) - 1)), b, a)
  features = None
  if one.features is not None and np.shape(one.features) == np.shape(
      two.features):
    features = pick(one.features, two.features)
  names = [b if won else a for won, a, b in zip(
      wins, best.findings['attack_per_update'],
      other.findings['attack_per_update'], strict=True)]
  return lead._replace(
      recovery=Recovery(
          pick(one.clips, two.clips), pick(one.labels, two.labels),
          pick(one.objective, two.objective), features,
          pick(one.gradient_residual, two.gradient_residual)),
      findings=lead.findings | {'attack_per_update': names})


def merged_all(outcomes: Mapping[str, Outcome]) -> Outcome | None:
  """The best answer to each update of all outcomes; None of none."""
  return functools.reduce(merged, outcomes.values()) if outcomes else None


def answer(attack: Attack, problem: Problem, effort: Effort
           ) -> Outcome | UserError:
  """The answer of one attack, found again where it is in the workdir."""
  session = problem.session.inside(f'{FOLDER}/{attack.name}').named(
      attack.name)
  if session.folder:
    session.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    kept = _load(session.folder, _identity(attack, effort, problem))
    if kept:
      return kept
  try:
    outcome = attack.run(problem._replace(session=session), effort)
  except UserError as error:
    return error
  recovery = outcome.recovery
  residual = gradient_residual(
      problem.victim, problem.leak, recovery.clips, recovery.labels)
  if not np.isfinite(residual).all():
    return UserError('the gradient of its answer is not finite')
  outcome = outcome._replace(
      recovery=recovery._replace(gradient_residual=residual))
  if session.folder and CUT not in outcome.findings:
    _save(session.folder, outcome, _identity(attack, effort, problem))
  return outcome


def _identity(attack: Attack, effort: Effort, problem: Problem) -> str:
  """What an answer belongs to: attack, effort, seed and update."""
  seen = hashlib.sha256(repr((attack, effort)).encode())
  seen.update(np.asarray(jax.random.key_data(problem.key)).tobytes())
  for leaf in jax.tree.leaves(
      [each.update for each in problem.leak.rounds()]):
    seen.update(np.asarray(leaf).tobytes())
  return seen.hexdigest()


def _save(folder: Path, outcome: Outcome, identity: str) -> None:
  files.write_arrays(folder / 'outcome.npz', **outcome.recovery._asdict())
  files.write_json(folder / 'outcome.json', {
      'identity': identity, 'cost': outcome.cost._asdict(),
      'findings': outcome.findings})


def _load(folder: Path, identity: str) -> Outcome | None:
  """The answer in a folder; refuses one of another leak or attack."""
  facts = folder / 'outcome.json'  # written last
  if not facts.exists():
    return None
  content: Row = json.loads(facts.read_text())
  if content['identity'] != identity:
    raise UserError(f'{folder} holds the answer to another leak, seed or '
                    'attack. Choose another folder, or remove it.')
  with np.load(folder / 'outcome.npz', allow_pickle=False) as saved:
    recovery = Recovery(**{name: saved[name] for name in saved.files})
  return Outcome(recovery, Cost(**content['cost']), content['findings'])
