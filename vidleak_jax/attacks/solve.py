"""Runs one attack on one or many problems, and measures every answer."""

from collections.abc import Sequence
from pathlib import Path

from vidleak_jax.attacks import local_training
from vidleak_jax.attacks.base import Attack, Effort, Outcome, Problem
from vidleak_jax.attacks.matching import iterative
from vidleak_jax.attacks.matching.iterative import Iterative
from vidleak_jax.attacks.residual import gradient_residual
from vidleak_jax.types import UserError, attempt


def solve(
    problems: Sequence[Problem], attacks: Sequence[Attack], effort: Effort,
    folder: Path | None = None,
) -> list[Outcome | UserError]:
  """Returns of each problem what came of it: an outcome, or why there is none.

  Args:
    problems: of equal shapes and equal public facts, but for numbers.
    attacks: one a problem, of one kind, equal but for traced numbers.
    effort: restarts and steps of each.
    folder: gets the checkpoints where the attack iterates.

  Raises:
    UserError: where the attack does not apply to such a leak, its labels are
      no classes of the victim, or the client's optimiser is not told.
  """
  for problem in problems:
    _check_labels(problem)
    local_training.check_optimizer(problem.leak.public.federated)
  if isinstance(attacks[0], Iterative):
    outcomes = iterative.solve(problems, attacks, effort, folder)
  else:
    outcomes = [attempt(attack.run, problem, effort)
                for problem, attack in zip(problems, attacks, strict=True)]
  return [one if isinstance(one, UserError) else _measured(problem, one)
          for problem, one in zip(problems, outcomes, strict=True)]


def _check_labels(problem: Problem) -> None:
  """A leak that names no victim cannot tell by itself."""
  labels, count = problem.leak.labels, problem.victim.num_classes
  if labels is not None and labels.max() >= count:
    raise UserError(f'labels of the leak reach {labels.max()}; the victim has '
                    f'classes 0 to {count - 1}.')


def _measured(problem: Problem, outcome: Outcome) -> Outcome:
  """The outcome with its gradient residual, if it has none yet."""
  recovery = outcome.recovery
  note = local_training.order_note(problem.leak)
  if note:
    outcome = outcome._replace(
        findings=outcome.findings | {'local_order': note})
  if recovery.gradient_residual is not None:
    return outcome
  return outcome._replace(recovery=recovery._replace(
      gradient_residual=gradient_residual(
          problem.victim, problem.leak, recovery.clips, recovery.labels)))
