"""An iterative attack from its options: objective, optimizer, start, box.

A recipe's structure makes a program; its traced numbers are that program's
arguments, so that attacks of equal structure share one compile.
"""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from vidleak_jax import user_code
from vidleak_jax.attacks.matching import inversion, optimizers
from vidleak_jax.attacks.matching.match import Term
from vidleak_jax.attacks.matching.priors import PRIORS
from vidleak_jax.options import Options, option
from vidleak_jax.types import Guess, is_off


@dataclass(frozen=True)
class Distances(Options):
  """Weights of the distances between updates; 0 leaves one out."""
  cosine: float = option(1.0, '1 - cosine', low=0, traced=True)
  relative_l2: float = option(0.1, 'squared, over the leak', low=0, traced=True)
  squared_l2: float = option(0.0, 'squared', low=0, traced=True)


# Weights of the priors; 0 leaves one out. A field for each row of `PRIORS`.
if TYPE_CHECKING:
  Priors = Any
else:
  Priors = dataclasses.make_dataclass(
      'Priors',
      [*((name, float, option(prior.weight, prior.help, low=0, traced=True))
         for name, prior in PRIORS.items()),
       ('function', str | None, option(
           None, 'your own prior: path/to/file.py:NAME or package.module:NAME, '
           '(guess, target) -> []')),
       ('function_weight', float, option(0.01, 'of it', low=0, traced=True))],
      bases=(Options,), frozen=True,
      namespace={'__doc__': 'Weights of the priors; 0 leaves one out.'})
  Priors.__module__ = __name__


@dataclass(frozen=True)
class Recipe(Options):
  """Options of every attack that iterates on the pixels."""
  num_steps: int = option(2000, 'of each restart', low=1, high=10**9)
  labels: str = option('inferred', 'or joint: optimised with the clip',
                       choices=('inferred', 'joint'))
  priors: Priors = option(Priors(), 'weights')
  prior_schedule: str = option('constant', 'how they fall',
                               choices=tuple(optimizers.SCHEDULES))
  optimizer: str = option('adam', 'what moves the pixels',
                          choices=tuple(optimizers.OPTIMIZERS))
  learning_rate: float = option(0.05, 'after the warm-up', above=0, high=1e6,
                                traced=True)
  schedule: str = option('cosine', 'how the rate falls',
                         choices=tuple(optimizers.SCHEDULES))
  warmup_steps: int = option(0, 'of a linear rise from 0', low=0)
  beta2: float = option(0.999, "Adam's memory", above=0, below=1, traced=True)
  memory: int = option(20, 'past steps that L-BFGS keeps', low=1, high=10**4)
  coarse: float = option(
      0.25, 'share of the steps in which blocks of pixels and frames move as '
      'one, large ones first', low=0, high=1, traced=True)
  start_mean: float = option(0.5, "of the first guess's pixels", low=-10,
                             high=10, traced=True)
  start_std: float = option(0.05, 'their standard deviation', low=0, high=100,
                            traced=True)
  box: bool = option(True, 'whether pixels are held in [0, 1]')
  polish_steps: int = option(0, 'of Gauss-Newton in float64, at the end',
                             low=0, high=1000)
  polish_inner_steps: int = option(200, 'conjugate gradients in each', low=1)


def build(match: Term, num_steps: int, recipe: Recipe) -> inversion.Attack:
  """Returns a gradient-matching attack.

  Args:
    match: how far a guess is from the leak.
    num_steps: of the attack; the schedules end with it.
    recipe: objective, optimizer and start; its numbers may be traced.
  """
  terms = {'match': (1.0, match)}
  falling = optimizers.SCHEDULES[recipe.prior_schedule]
  for name, prior in PRIORS.items():
    weight = getattr(recipe.priors, name)
    if not is_off(weight):
      terms[name] = (falling(weight, num_steps), prior.term)
  function, weight = recipe.priors.function, recipe.priors.function_weight
  if function and not is_off(weight):
    terms[function.rpartition(':')[2]] = (
        falling(weight, num_steps), user_code.load(function, 'priors.function'))
  return inversion.gradient_inversion(
      inversion.weighted_sum(num_steps, **terms),
      optimizers.build(
          recipe.optimizer, recipe.learning_rate, num_steps,
          schedule=recipe.schedule, warmup_steps=recipe.warmup_steps,
          beta2=recipe.beta2, memory=recipe.memory, coarse=recipe.coarse),
      start=_gaussian_start(recipe.start_mean, recipe.start_std),
      project=_box if recipe.box else lambda guess: guess)


def _gaussian_start(mean, std):
  """Pixels N(mean, std^2); soft labels, where there are any, N(0, 1)."""

  def start(key, template):
    clips_key, labels_key = jax.random.split(key)
    clips = mean + std * jax.random.normal(clips_key, template.clips.shape)
    labels = template.labels
    if not jnp.issubdtype(labels.dtype, jnp.integer):
      labels = jax.random.normal(labels_key, labels.shape)
    return Guess(clips, labels)
  return start


def _box(guess):
  return guess._replace(clips=jnp.clip(guess.clips, 0.0, 1.0))
