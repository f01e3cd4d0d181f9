"""Attacks that match the whole update: ig, dlg and idlg.

A weight change is matched in one of two ways. *Surrogate*: as the gradient at a
point between start and end weights (SME, ICML 2023), at the cost of one
gradient a step; of Adam as the gradient's signs there. *Simulated*: by training
as the client did, at the cost of all its steps. Of several rounds the match is
the mean.
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vidleak_jax import trees
from vidleak_jax.attacks import local_training
from vidleak_jax.attacks.base import Problem, needs_head
from vidleak_jax.attacks.matching import match, recipe
from vidleak_jax.attacks.matching.iterative import Iterative
from vidleak_jax.attacks.surrogate import surrogate
from vidleak_jax.clients import client_from
from vidleak_jax.options import option
from vidleak_jax.types import Guess, Leak, Params, Target, UserError, Victim

_FEW_STEPS = 8   # local steps that are simulated where that is exact
# Entries above this share of their leaf's root mean square count by their sign.
_SIGN_EDGE = 0.3


class Seen(NamedTuple):
  """What one round shows, and where; leaves [M, ...] of M updates."""
  params: Params  # the weights of the round, or a point between them
  update: Params  # the update, or the gradient that stands for it


class Rounds(NamedTuple):
  """What all rounds show."""
  seen: tuple[Seen, ...]


@dataclasses.dataclass(frozen=True)
class GradientMatching(Iterative):
  """Descends a distance between the guess's update and the leaked one.

  It needs nothing of the victim but its loss, and applies to FedAvg too.
  """
  distance: recipe.Distances = option(recipe.Distances(), 'between updates')
  local_training: str = option(
      'auto', 'how a weight change is matched; surrogate: as a gradient '
      'between both weights; simulated: step by step; auto: simulated for one '
      'epoch of few minibatches',
      choices=('auto', 'surrogate', 'simulated'))

  def requires(self, victim: Victim, leak: Leak) -> list[str]:
    """See `Attack.requires`."""
    if leak.public.federated.optimizer == 'other':
      return ["the client's optimiser is not told"]
    if self.labels == 'joint' or leak.labels is not None:
      return []
    return needs_head(victim)

  def prepare(self, problems: Sequence[Problem]) -> list[Target | UserError]:
    """See `Iterative.prepare`."""
    leak = problems[0].leak
    if self._at_a_point(leak):
      return [_near(problem) for problem in problems]
    if leak.num_rounds == 1:
      return super().prepare(problems)
    return [_each_round(problem.leak) for problem in problems]

  def templates(self, problem: Problem, target: Target) -> Guess:
    """See `Iterative.templates`: of one epoch, clips come by their turns."""
    guess, leak = super().templates(problem, target), problem.leak
    head, federated = problem.victim.head, leak.public.federated
    if _order(leak) is None or guess.labels.ndim > 2 or not head:
      return guess
    seen = local_training.mean_gradient(
        trees.at(leak.params, head), trees.at(leak.update, head), federated,
        leak.public.batch_size)
    if 'bias' not in seen:
      return guess
    return guess._replace(labels=np.stack([
        local_training.in_order_of_weight(own, np.asarray(bias))
        for own, bias in zip(guess.labels, seen['bias'])]))

  def term(self, victim: Victim, leak: Leak) -> match.Term:
    """See `Iterative.term`."""
    weights = {name: getattr(self.distance, name) for name in match.DISTANCES}
    distance = plain = match.weighted_distance(weights)
    federated = leak.public.federated
    near = self._at_a_point(leak)
    if near and not local_training.is_linear(federated):
      distance = _of_signs(distance)
    if near or federated.algorithm == 'fedsgd':
      # Signs have a scale in each leaf, so that leaves must stay apart.
      pack = victim.pack if distance is plain else None
      one = match.gradient_match(victim.loss, distance, pack)
    else:
      client, order = client_from(federated), _order(leak)
      one = match.update_match(
          lambda *guess: client.update(victim.loss, *guess, order=order),
          distance)

    def term(guess, target):
      if not isinstance(target.evidence, Rounds):
        return one(guess, target)
      seen = target.evidence.seen
      return sum(one(guess, Target(*each)) for each in seen) / len(seen)
    return term

  def _at_a_point(self, leak: Leak) -> bool:
    """Whether the update is matched as a gradient between both weights."""
    federated = leak.public.federated
    if federated.algorithm == 'fedsgd' or self.local_training == 'simulated':
      return False
    if self.local_training == 'surrogate':
      return True
    count = leak.public.batch_size
    return not (local_training.is_linear(federated)
                and federated.is_shuffled(count)
                and federated.num_local_steps(count) <= min(
                    _FEW_STEPS, federated.steps_an_epoch(count)))


def _near(problem: Problem) -> Target:
  """The updates of all rounds as gradients at points of their own."""
  victim, leak = problem.victim, problem.leak

  def of_round(one):
    surrogates = [surrogate(one.params, trees.take(one.update, i), victim.head,
                            leak.public.batch_size, leak.public.federated)
                  for i in range(leak.num_updates)]
    return trees.stack([
        Seen(each.params, each.gradient) for each in surrogates])
  return Target(leak.params, Rounds(tuple(
      of_round(one) for one in leak.rounds())))


def _each_round(leak: Leak) -> Target:
  """The updates of all rounds, each with its weights."""
  def repeated(leaf):
    return np.broadcast_to(leaf, (leak.num_updates, *np.shape(leaf)))
  return Target(leak.params, Rounds(tuple(
      Seen(jax.tree.map(repeated, one.params), one.update)
      for one in leak.rounds())))


def _order(leak: Leak) -> np.ndarray | None:
  """[1, B]: of one epoch the clips are named by their turns; else None."""
  federated, count = leak.public.federated, leak.public.batch_size
  if federated.algorithm == 'fedsgd' or not federated.is_shuffled(count) or (
      federated.num_local_steps(count) > federated.steps_an_epoch(count)):
    return None
  return np.arange(count, dtype=np.int32)[None]


def _of_signs(distance: match.Distance) -> match.Distance:
  """A distance to signs, from a gradient whose signs are smooth."""
  def signs(leaf):
    edge = _SIGN_EDGE ** 2 * jnp.mean(leaf ** 2) + 1e-30
    return leaf * lax.rsqrt(leaf ** 2 + edge)
  return lambda found, target: distance(jax.tree.map(signs, found), target)


@dataclasses.dataclass(frozen=True)
class InvertingGradients(GradientMatching):
  """Inverting Gradients (2003.14053) for clips.

  Cosine and a little relative L2, which holds the contrast, over all
  parameters; total variation in space, time and between colours; from coarse
  to fine; Adam; pixels in [0, 1].

  >>> InvertingGradients(num_steps=500).learning_rate
  0.05
  """
  name: ClassVar[str] = 'ig'
  cost: ClassVar[int] = 80


@dataclasses.dataclass(frozen=True)
class DeepLeakage(GradientMatching):
  """DLG (1906.08935): clip and soft label together, L-BFGS, nothing else."""
  name: ClassVar[str] = 'dlg'
  cost: ClassVar[int] = 90
  num_steps: int = option(1000, 'of each restart', low=1, high=10**9)
  labels: str = option('joint', 'or inferred',
                       choices=('inferred', 'joint'))
  distance: recipe.Distances = option(
      recipe.Distances(cosine=0.0, relative_l2=0.0, squared_l2=1.0),
      'between updates')
  priors: recipe.Priors = option(recipe.Priors(0.0, 0.0, 0.0, 0.0), 'weights')
  optimizer: str = option('lbfgs', 'what moves the pixels',
                          choices=('adam', 'signed_adam', 'lbfgs'))
  learning_rate: float = option(1.0, 'L-BFGS searches its own', above=0,
                                high=1e6, traced=True)
  schedule: str = option('constant', 'how the rate falls',
                         choices=('constant', 'cosine', 'geometric', 'steps'))
  memory: int = option(50, 'past steps that L-BFGS keeps', low=1, high=10**4)
  coarse: float = option(0.0, 'share of coarse steps; L-BFGS allows none',
                         low=0, high=1, traced=True)
  start_mean: float = option(0.0, "of the first guess's pixels", low=-10,
                             high=10, traced=True)
  start_std: float = option(1.0, 'their standard deviation', low=0, high=100,
                            traced=True)
  box: bool = option(False, 'whether pixels are held in [0, 1]')


@dataclasses.dataclass(frozen=True)
class ImprovedDeepLeakage(DeepLeakage):
  """iDLG (2001.02610): DLG with the label read off the last layer."""
  name: ClassVar[str] = 'idlg'
  cost: ClassVar[int] = 91
  labels: str = option('inferred', 'or joint: optimised with the clip',
                       choices=('inferred', 'joint'))
