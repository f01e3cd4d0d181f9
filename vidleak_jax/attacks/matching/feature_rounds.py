"""Feature matching of several rounds: equations about the same clips add up.

In each round the server's weights are others, and so are features, slopes and
the kernel's gradient; all are functions of the same pixels. A layer's input
depends on the weights below it, so that layers are peeled in each round alone.
The un-mixing of a batch returns clips in the order of their labels; clips that
share a label are matched across rounds by their features, which hardly move.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import scipy.optimize

from vidleak_jax import trees
from vidleak_jax.attacks.base import Outcome, Problem
from vidleak_jax.attacks.matching.batch_features import FeatureTarget
from vidleak_jax.attacks.matching.match import Term
from vidleak_jax.attacks.matching.whole_levels import Equations
from vidleak_jax.attacks.residual import (
    CERTIFIED,
    gradient_residual,
    noise_floor,
)
from vidleak_jax.types import Leak, Row, Target, UserError

_SEPARATED = 1e-5  # residual below which an un-mixing is right
_WORSE = 10.0      # times the best round's residual: clips were not separated
_ALIKE = 0.5       # correlation of a clip's features in two rounds, at least


def joined(
    problems: Sequence[Problem],
    prepare: Callable[[Sequence[Problem]], list[Target | UserError]],
) -> list[Target | UserError]:
  """Returns one target a problem: tuples of what its rounds tell.

  Rounds that tell nothing, or in which the clips cannot be told apart, are
  left out.

  Args:
    problems: what the attacker has.
    prepare: the targets of problems of one round.
  """
  single = [[problem._replace(leak=one) for one in problem.leak.each_round()]
            for problem in problems]
  found = iter(prepare([one for rounds in single for one in rounds]))
  return [_joined([next(found) for _ in rounds]) for rounds in single]


def note(leak: Leak, target: Target) -> Row:
  """Returns what is to be said of rounds that were left out."""
  used = len(target.evidence)
  return {} if used == leak.num_rounds else {
      'rounds_note': f'{used} of {leak.num_rounds} rounds were used: the '
      'others tell nothing, or not which clip is which.'}


def first_alone(problem: Problem, outcome: Outcome) -> Problem | None:
  """Returns the first round's problem; None: one round, or a certain answer."""
  leak, answer = problem.leak, outcome.recovery
  if leak.num_rounds == 1 or bool(np.all(gradient_residual(
      problem.victim, leak, answer.clips, answer.labels
  ) < CERTIFIED + noise_floor(leak))):
    return None
  return problem._replace(leak=leak.each_round()[0],
                          session=problem.session.inside('first_round'))


def mean(one: Term) -> Term:
  """Returns the mean over all rounds of a match of one."""
  def term(guess, target):
    parts = [one(guess, each) for each in _each(target)]
    return sum(parts) / len(parts)
  return term


def stacked(one: Equations) -> Equations:
  """Returns the equations of all rounds; their squares add up to a mean."""
  def equations(clips, target):
    rounds = _each(target)
    return jax.tree.map(lambda misfit: misfit / math.sqrt(len(rounds)),
                        [one(clips, each) for each in rounds])
  return equations


def separated(rounds: Sequence[FeatureTarget]) -> list[bool]:
  """Returns which rounds' clips were separated, as far as the best one's."""
  misfits = [float(np.max(each.residual)) for each in rounds]
  limit = max(_SEPARATED, _WORSE * min(misfits))
  return [misfit <= limit for misfit in misfits]


def order_of(one: FeatureTarget, other: FeatureTarget) -> np.ndarray | None:
  """Returns where in `other` each clip of `one` is, [B]; both of one update.

  Labels tell; clips that share one are assigned by the correlation of their
  features, less their mean. None: the labels differ, or it stays open.
  """
  if not np.array_equal(one.labels, other.labels):
    return None
  order = np.arange(len(one.labels))
  for label in np.unique(one.labels):
    group = np.flatnonzero(one.labels == label)
    if len(group) > 1:
      alike = _centred(one.output[group]) @ _centred(other.output[group]).T
      rows, columns = scipy.optimize.linear_sum_assignment(-alike)
      if not alike[rows, columns].min() > _ALIKE:
        return None
      order[group] = group[columns]
  return order


def permuted(target: FeatureTarget, order: np.ndarray) -> FeatureTarget:
  """Returns the target of one update with its clips in another order."""
  return target._replace(**{name: getattr(target, name)[order] for name in (
      'output', 'slope', 'labels', 'doubtful')})


def _joined(rounds: list[Target | UserError]) -> Target | UserError:
  usable = [each for each in rounds
            if isinstance(each, Target) and _is_finite(each.evidence)]
  if not usable:
    if isinstance(first := rounds[0], UserError):
      return first
    usable = [first]
  if len(usable) > 1 and not isinstance(usable[0].evidence, dict):
    usable = _in_one_order(usable)
  return Target(tuple(each.params for each in usable),
                tuple(each.evidence for each in usable))


def _in_one_order(rounds: list[Target]) -> list[Target]:
  """The rounds whose clips are known to be those of the surest round."""
  seen = [feature_target(each.evidence) for each in rounds]
  best = min(range(len(seen)), key=lambda i: np.max(seen[i].residual))
  kept = []
  for each, one, sure in zip(rounds, seen, separated(seen), strict=True):
    updates = range(len(one.labels))
    orders = [order_of(trees.take(seen[best], i), trees.take(one, i))
              for i in updates]
    if sure and all(order is not None for order in orders):
      ordered = trees.stack([
          permuted(trees.take(one, i), orders[i]) for i in updates])
      kept.append(each._replace(evidence=(
          ordered if one is each.evidence
          else each.evidence._replace(target=ordered))))
  return kept


def feature_target(evidence: Any) -> FeatureTarget:
  """Returns the target of a batch, whether exact or about right."""
  return getattr(evidence, 'target', evidence)


def _each(target: Target) -> list[Target]:
  return [Target(*each) for each in zip(
      target.params, target.evidence, strict=True)]


def _is_finite(tree):
  return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))


def _centred(features):
  rows = np.asarray(features, np.float64).reshape(len(features), -1)
  rows = rows - rows.mean(0)
  return rows / np.maximum(
      np.linalg.norm(rows, axis=1, keepdims=True), 1e-300)
