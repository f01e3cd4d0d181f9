"""Tries what applies, by expected yield, and ranks it by one measure.

The verdict is 'recovered', 'partly' or 'nothing found by these attacks within
this budget'. It never says that a leak is safe: attacks that were not tried may
do better.
"""

import dataclasses
import time
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from vidleak_jax.attacks import ambiguity, local_training
from vidleak_jax.attacks.analytic.polish import polished
from vidleak_jax.attacks.attempts import (
    POLISH,
    Attempt,
    Explored,
    Refined,
    explore,
    merged,
    residuals,
)
from vidleak_jax.attacks.base import Attack, Effort, Outcome, Problem
from vidleak_jax.attacks.residual import (
    CERTIFIED,
    gradient_residual,
    noise_floor,
    order_floor,
)
from vidleak_jax.errors import nearest
from vidleak_jax.options import option
from vidleak_jax.types import Leak, Row, UserError, Victim

RECOVERED = 'recovered'
PARTLY = 'partly'
NOTHING = 'nothing found by these attacks within this budget'
_WITHIN_NOISE = 0.3  # of the defence's own residual: less tells nothing
_MOVED_STEPS = 2  # of Gauss-Newton from a moved answer
_POLISH_INNER = 100  # conjugate gradients in each step of the polish
# Time of one of those in float64, in float32 gradients: a derivative of the
# gradient and its transpose, each about three times as dear, in twice the bits.
_GRADIENTS_A_STEP = 12
# `auto` does not try these: others do the same or more.
LEFT_OUT = ('auto', 'closed_form', 'dlg', 'idlg')
ADAPTIVE = ('defense_aware',)  # they know what a defence left


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
      CERTIFIED, 'gradient residual, beyond what the defence causes, at which '
      'an answer explains its update; where all are explained no other is '
      'tried',
      low=0, high=1)
  doubtful: float = option(
      0.6, 'share of the residual of a grey clip above which an answer counts '
      'as nothing', low=0, high=1)
  ambiguous: float = option(
      0.02, 'share of pixel directions that an update does not show, above '
      'which an answer that explains it is not called recovered; tried where '
      'a network has few equations', low=0, high=1)
  polish_steps: int = option(
      3, 'of Gauss-Newton in float64 from the best answer, where it is not '
      'certified and no defence was applied', low=0, high=1000)
  near: float = option(
      0.05, 'gradient residual up to which an answer is polished before dearer '
      'attacks are tried', low=0, high=1)
  only: tuple[str, ...] = option((), 'attacks to try; (): all that apply')

  def __post_init__(self):
    super().__post_init__()
    if self.only:
      from vidleak_jax.attacks.registry import ATTACKS
      others = [name for name in ATTACKS if name != self.name]
      for name in self.only:
        if name not in others:
          raise UserError(
              f'attack.auto.only names {name!r}.{nearest(name, others)} It can '
              f'name {", ".join(others)}.')

  def requires(self, victim: Victim, leak: Leak) -> list[str]:
    """See `Attack.requires`."""
    if any(not attack.requires(victim, leak)
           for attack in self._candidates()):
      return []
    return ['no attack applies to this leak: see vl.applicable']

  def run(self, problem: Problem, effort: Effort) -> Outcome:
    """See `Attack.run`."""
    defense = problem.leak.public.defense
    is_defended = defense is not None and not defense.is_off
    return self.choose(
        problem, effort, by_yield(self._candidates(), is_defended))

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
    return self.conclude(problem, self.explore(problem, effort, candidates))

  def explore(self, problem: Problem, effort: Effort,
              candidates: Sequence[Attack], *, exhaustive: bool = False
              ) -> Explored:
    """Tries attacks in this order, while the budget lasts.

    Args:
      problem: what the attacker has.
      effort: of each iterative attack.
      candidates: the attacks.
      exhaustive: whether the budget alone ends the search: a certified answer
        does not, and an attack that runs then is stopped.
    """
    floor = noise_floor(problem.leak)
    enough = np.maximum(self.certified, _WITHIN_NOISE * floor)

    def why_stop(spent: float, best: Outcome | None) -> str:
      if spent >= self.budget_seconds:
        return 'the budget was spent'
      certified = best and np.all(_beyond(residuals(best), floor) <= enough)
      return 'an answer was certified before' * bool(
          certified and not exhaustive)

    def polish(best: Outcome, spent: float) -> Refined | None:
      # From near by a polish gains more than any other start, in a fraction of
      # the time; after a dear attack no budget may be left for it.
      near = np.all(residuals(best) <= self.near)
      return self._polished(problem, best, spent) if near else None
    return explore(problem, effort, candidates, why_stop,
                   self.budget_seconds if exhaustive else None, polish)

  def conclude(self, problem: Problem, explored: Explored) -> Outcome:
    """Returns the best answer, polished where that may help, and the verdict.

    Raises:
      UserError: where no attack applied, or all failed.
    """
    best, spent = explored.best, explored.seconds
    attempts = list(explored.attempts)
    if best is None:
      raise UserError(
          'No attack gave an answer: '
          f'{"; ".join(f"{a.name}: {a.why_not}" for a in attempts)}.')
    done = explored.outcomes.get(POLISH)
    is_polished = done and np.all(residuals(done) <= residuals(best))
    if not is_polished and (refined := self._polished(problem, best, spent)):
      best, row = refined
      attempts.append(row)
      spent += row.seconds
    evidence = self._evidence(
        problem, best, noise_floor(problem.leak), self.budget_seconds - spent)
    return best._replace(
        cost=best.cost._replace(seconds_attack=spent),
        findings=best.findings | evidence | {
            'attempts': [attempt._asdict() for attempt in attempts]})

  def _evidence(self, problem: Problem, best: Outcome, floor: np.ndarray,
                seconds_left: float) -> Row:
    """The verdict, and what it rests on.

    All updates have to be recovered for 'recovered': no mean over updates hides
    one that is not. Nor is an answer 'recovered' that explains its update where
    other clips explain it as well.
    """
    grey = gradient_residual(
        problem.victim, problem.leak, np.full_like(best.recovery.clips, 0.5),
        best.recovery.labels)
    floor = np.hypot(floor, order_floor(
        problem.victim, problem.leak, best.recovery.clips,
        best.recovery.labels))
    measured = residuals(best)
    each = [self.verdict(*map(float, row))
            for row in zip(measured, grey, floor)]
    hidden = self._hidden(problem, best, seconds_left) if (
        RECOVERED in each) else None
    if hidden is not None:
      each = [PARTLY if word == RECOVERED and share > self.ambiguous else word
              for word, share in zip(each, hidden, strict=True)]
    verdict = (RECOVERED if set(each) == {RECOVERED}
               else NOTHING if set(each) == {NOTHING} else PARTLY)
    shares = {} if hidden is None else {'undetermined_per_update': [
        None if np.isnan(share) else float(share) for share in hidden]}
    return shares | {
            'verdict': verdict, 'verdict_per_update': each,
            'gradient_residual_per_update': measured.tolist(),
            'gradient_residual_grey': float(grey.mean()),
            'gradient_residual_floor': float(floor.mean())}

  def _hidden(self, problem: Problem, best: Outcome, seconds_left: float
              ) -> np.ndarray | None:
    """What share of the pixels no update shows; None where it is not asked."""
    one_gradient = problem.leak.public.federated.algorithm == 'fedsgd'
    if (not one_gradient or not _is_plain(problem.leak)
        or not ambiguity.may_be_ambiguous(problem)
        or _polish_seconds(problem, best, _MOVED_STEPS) > seconds_left):
      return None
    problem.session.tell('other clips', 0, 1)
    shares = ambiguity.undetermined(
        problem, best.recovery, _MOVED_STEPS, _POLISH_INNER)
    problem.session.tell('other clips', 1, 1)
    return shares

  def _polished(self, problem: Problem, best: Outcome, spent: float
                ) -> Refined | None:
    """The better one of the best answer and its polish, and what that was.

    None where a polish has nothing to do, or does not apply.
    """
    if not (self.polish_steps and np.any(residuals(best) > self.certified)
            and _is_plain(problem.leak)):
      return None
    needed = _polish_seconds(problem, best, self.polish_steps)
    seconds_left = self.budget_seconds - spent
    if needed > seconds_left:
      return best, Attempt(
          POLISH, None, 0.0, f'not tried: about {needed:.0f} s, and '
          f'{max(seconds_left, 0):.0f} s of the budget are left')
    problem.session.tell('polish', 0, 1)
    began = time.perf_counter()
    tried = polished(problem, best, self.polish_steps, _POLISH_INNER)
    recovery = tried.recovery
    residual = gradient_residual(problem.victim, problem.leak, recovery.clips,
                                 recovery.labels)
    problem.session.tell('polish', 1, 1, gradient_residual=residual.mean())
    row = Attempt(POLISH, float(residual.mean()),
                  time.perf_counter() - began, '')
    return merged(best, tried._replace(
        recovery=recovery._replace(gradient_residual=residual))), row

  def verdict(self, residual: float, grey: float, floor: float = 0.0) -> str:
    """Returns what a residual says.

    Args:
      residual: of the answer.
      grey: of a grey clip with the same labels.
      floor: of the truth, by the errors that the defence made.
    """
    missed, room = _beyond(residual, floor), _beyond(grey, floor)
    # The defence's errors may hide even a grey clip's.
    if room < _WITHIN_NOISE * floor:
      return NOTHING
    if missed <= max(self.certified, _WITHIN_NOISE * floor):
      return RECOVERED
    return PARTLY if missed < self.doubtful * room else NOTHING

  def _candidates(self) -> list[Attack]:
    from vidleak_jax.attacks.registry import ATTACKS
    return self._ordered([attack() for attack in ATTACKS.values()])

  def _ordered(self, attacks: Sequence[Attack]) -> list[Attack]:
    return by_yield([attack for attack in attacks if (
        attack.name in self.only if self.only
        else attack.name not in LEFT_OUT)], is_defended=False)


@dataclasses.dataclass(frozen=True)
class AutoWith(Auto):
  """`auto` over attacks whose options were chosen."""
  attacks: tuple = option((), 'what to try, ready to run')

  def _candidates(self) -> list[Attack]:
    return self._ordered(self.attacks)


def by_yield(attacks: Sequence[Attack], is_defended: bool) -> list[Attack]:
  """Returns attacks in the order in which to try them: the cheaper ones first.

  Behind a defence those made for it come first: exact equations no longer hold,
  and the others lose most of their decibels.
  """
  return sorted(attacks, key=lambda attack: (
      not (is_defended and attack.name in ADAPTIVE), attack.cost))


def _is_plain(leak: Leak) -> bool:
  """Whether the update can be simulated exactly, and nothing has touched it."""
  defense, federated = leak.public.defense, leak.public.federated
  return defense is not None and defense.is_off and not (
      local_training.is_order_open(federated, leak.public.batch_size))


def _polish_seconds(problem: Problem, best: Outcome, num_steps: int) -> float:
  """An estimate from one gradient: a polish cannot be interrupted."""
  began = time.perf_counter()
  gradient_residual(problem.victim, problem.leak, best.recovery.clips,
                    best.recovery.labels)  # compiled before
  return (num_steps * _POLISH_INNER * _GRADIENTS_A_STEP
          * (time.perf_counter() - began))


def _beyond(residual, floor):
  """What of a residual the defence's own errors do not cause."""
  return np.sqrt(np.maximum(np.square(residual) - np.square(floor), 0.0))
