"""Attacks that match the whole update: ig, dlg and idlg."""

import dataclasses
from typing import ClassVar

from vidleak_jax.attacks.base import needs_head
from vidleak_jax.attacks.matching import match, recipe
from vidleak_jax.attacks.matching.iterative import Iterative
from vidleak_jax.clients import client_from
from vidleak_jax.options import option
from vidleak_jax.types import Leak, Victim


@dataclasses.dataclass(frozen=True)
class GradientMatching(Iterative):
  """Descends a distance between the guess's update and the leaked one.

  It needs nothing of the victim but its loss, and simulates the clients'
  algorithm, so that it applies to FedAvg too.
  """
  distance: recipe.Distances = option(recipe.Distances(), 'between updates')

  def requires(self, victim: Victim, leak: Leak) -> list[str]:
    """See `Attack.requires`."""
    if self.labels == 'joint' or leak.labels is not None:
      return []
    return needs_head(victim)

  def term(self, victim: Victim, leak: Leak) -> match.Term:
    """See `Iterative.term`."""
    weights = {name: getattr(self.distance, name) for name in match.DISTANCES}
    distance = match.weighted_distance(weights)
    if leak.public.federated.algorithm == 'fedsgd':
      return match.gradient_match(victim.loss, distance)
    client = client_from(leak.public.federated)
    return match.update_match(
        lambda *guess: client.update(victim.loss, *guess), distance)


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
