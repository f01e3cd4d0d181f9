"""Tries what applies, from cheap to dear, and ranks it by one measure.

The verdict is 'recovered', 'partly' or 'nothing found by these attacks within
this budget'. It never says that a leak is safe: attacks that were not tried may
do better.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from vidleak_jax import files
from vidleak_jax.attacks.base import Attack, Cost, Effort, Outcome, Problem
from vidleak_jax.attacks.residual import gradient_residual, noise_floor
from vidleak_jax.options import option
from vidleak_jax.types import Leak, Recovery, UserError, Victim, pick

ATTEMPTS = 'checkpoints'  # a folder an attack in here, with all it writes
RECOVERED = 'recovered'
PARTLY = 'partly'
NOTHING = 'nothing found by these attacks within this budget'
_UNTOLD = 0.3  # of the defence's own residual: what is smaller is not told
# `auto` does not try these: others do the same or more.
_LEFT_OUT = ('auto', 'closed_form', 'dlg', 'idlg')


class Attempt(NamedTuple):
  """One attack that was tried, or why it was not."""
  name: str
  gradient_residual: float | None  # the mean over updates
  seconds: float
  why_not: str  # '' where it ran to its end


@dataclasses.dataclass(frozen=True)
class Auto(Attack):
  """Every applicable attack within a budget; the best is polished.

  >>> Auto(budget_seconds=60).certified
  0.01
  """
  name: ClassVar[str] = 'auto'
  cost: ClassVar[int] = 0
  budget_seconds: float = option(
      900.0, 'after which no other attack is begun', above=0)
  certified: float = option(
      0.01, 'gradient residual at which an answer is right: no other attack is '
      'tried', low=0, high=1)
  doubtful: float = option(
      0.6, 'share of the residual of a grey clip above which an answer counts '
      'as nothing', low=0, high=1)
  only: tuple[str, ...] = option((), 'attacks to try; (): all that apply')

  def __post_init__(self):
    super().__post_init__()
    if self.only:
      from vidleak_jax.attacks.registry import ATTACKS
      for name in self.only:
        pick({each: None for each in ATTACKS if each != self.name}, name,
             'attack.auto.only')

  def requires(self, victim: Victim, leak: Leak) -> list[str]:
    """See `Attack.requires`."""
    if any(not attack.requires(victim, leak)
           for attack in self._candidates()):
      return []
    return ['no attack applies to this leak: see vl.applicable']

  def run(self, problem: Problem, effort: Effort) -> Outcome:
    """See `Attack.run`."""
    return self.choose(problem, effort, self._candidates())

  def choose(self, problem: Problem, effort: Effort,
             candidates: Sequence[Attack]) -> Outcome:
    """Returns the best of some attacks' answers, and what was tried.

    Args:
      problem: what the attacker has.
      effort: of each iterative attack.
      candidates: tried in this order while the budget lasts.

    Raises:
      UserError: where no attack applied, or all failed.
    """
    attempts: list[Attempt] = []
    best: Outcome | None = None
    spent = 0.0  # earlier runs of the same workdir included
    for attack in candidates:
      reasons = attack.requires(problem.victim, problem.leak)
      if reasons:
        attempts.append(Attempt(attack.name, None, 0.0, '; '.join(reasons)))
        continue
      if spent > self.budget_seconds or (
          best and _residual(best) <= self.certified):
        why = ('the budget was spent' if spent > self.budget_seconds
               else 'an answer was certified before')
        attempts.append(Attempt(attack.name, None, 0.0, f'not tried: {why}'))
        continue
      outcome = _attempt(attack, problem, effort)
      if isinstance(outcome, UserError):
        attempts.append(Attempt(attack.name, None, 0.0,
                                f'failed: {outcome}'))
        continue
      residual = _residual(outcome)
      seconds = outcome.cost.seconds_attack + outcome.cost.seconds_compile
      spent += seconds
      attempts.append(Attempt(attack.name, residual, seconds, ''))
      problem.session.tell('attacks tried', len(attempts), len(candidates),
                           attack=attack.name, gradient_residual=residual)
      if best is None or residual < _residual(best):
        best = outcome._replace(
            findings=outcome.findings | {'attack': attack.name})
    if best is None:
      raise UserError(
          'No attack gave an answer: '
          f'{"; ".join(f"{a.name}: {a.why_not}" for a in attempts)}.')
    grey = float(gradient_residual(
        problem.victim, problem.leak, np.full_like(best.recovery.clips, 0.5),
        best.recovery.labels).mean())
    floor = noise_floor(problem.leak)
    rows = [attempt._asdict() for attempt in attempts]
    return best._replace(
        cost=best.cost._replace(seconds_attack=spent),
        findings=best.findings | {
            'verdict': self.verdict(_residual(best), grey, floor),
            'gradient_residual_grey': grey, 'gradient_residual_floor': floor,
            'attempts': rows})

  def verdict(self, residual: float, grey: float, floor: float = 0.0) -> str:
    """Returns what a residual says.

    Args:
      residual: of the answer.
      grey: of a grey clip with the same labels.
      floor: of the truth, by the errors that the defence made.
    """
    missed = max(residual ** 2 - floor ** 2, 0.0) ** 0.5
    room = max(grey ** 2 - floor ** 2, 0.0) ** 0.5
    if room < _UNTOLD * floor:  # the defence's errors hide even a grey clip's
      return NOTHING
    if missed <= max(self.certified, _UNTOLD * floor):
      return RECOVERED
    return PARTLY if missed < self.doubtful * room else NOTHING

  def _candidates(self) -> list[Attack]:
    from vidleak_jax.attacks.registry import ATTACKS
    return self._ordered([attack() for attack in ATTACKS.values()])

  def _ordered(self, attacks: Sequence[Attack]) -> list[Attack]:
    chosen = [attack for attack in attacks if (
        attack.name in self.only if self.only
        else attack.name not in _LEFT_OUT)]
    return sorted(chosen, key=lambda attack: attack.cost)


@dataclasses.dataclass(frozen=True)
class AutoWith(Auto):
  """`auto` over attacks whose options were chosen."""
  attacks: tuple = option((), 'what to try, ready to run')

  def _candidates(self) -> list[Attack]:
    return self._ordered(self.attacks)


def _residual(outcome: Outcome) -> float:
  return float(np.mean(outcome.recovery.gradient_residual))


def _attempt(attack: Attack, problem: Problem, effort: Effort
             ) -> Outcome | UserError:
  """The answer of one attack, found again where it is in the workdir."""
  session = problem.session.inside(f'{ATTEMPTS}/{attack.name}')
  if session.folder:
    session.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    kept = _load(session.folder)
    if kept:
      return kept
  try:
    outcome = attack.run(problem._replace(session=session), effort)
  except UserError as error:
    return error
  recovery = outcome.recovery
  outcome = outcome._replace(recovery=recovery._replace(
      gradient_residual=gradient_residual(
          problem.victim, problem.leak, recovery.clips, recovery.labels)))
  if session.folder:
    _save(session.folder, outcome)
  return outcome


def _save(folder: Path, outcome: Outcome) -> None:
  files.write_arrays(folder / 'outcome.npz', **outcome.recovery._asdict())
  files.write_json(folder / 'outcome.json', {
      'cost': outcome.cost._asdict(), 'findings': outcome.findings})


def _load(folder: Path) -> Outcome | None:
  facts = folder / 'outcome.json'  # written last
  if not facts.exists():
    return None
  content: dict[str, Any] = json.loads(facts.read_text())
  with np.load(folder / 'outcome.npz', allow_pickle=False) as saved:
    recovery = Recovery(**{name: saved[name] for name in saved.files})
  return Outcome(recovery, Cost(**content['cost']), content['findings'])
