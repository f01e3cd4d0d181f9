"""Feature matching: exact targets from the head's gradient.

For one clip and cross-entropy the head's gradient tells its own input h and
dL/dh without any iteration (`analytic.dense`). Two things about the layer below
are then known exactly, and say more than a distance between gradients:

  its output:             linear(W, x) + b = z,  z the inverse activation of h
  its kernel's gradient:  sum dz dlinear/dW(x) = dW,  with dz = dL/dh f'(z)

where x, the layer's input, is a function of the guess. Both are linear in x and
first order in the guess: a step costs one forward and one backward pass. The
second is whitened by dz's own second moments, so that every output channel
counts, however little it moved the loss.

Where a layer's equations outnumber its inputs, `feature_targets` solves them
first and the match is held against the layer below (layer peeling). Training
makes that matter: slopes of leaky units, 0.01 each, hide half of the directions
from a match further up. A recurrent layer is always solved first (`recurrent`);
what rounding leaves open of its steps counts little in the equations below it.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vidleak_jax import trees
from vidleak_jax.attacks.analytic.activations import INVERTIBLE
from vidleak_jax.attacks.base import CUT, Outcome, Problem
from vidleak_jax.attacks.matching import (
    batch_features,
    chain,
    feature_rounds,
    feature_targets,
    path_refinement,
    whole_levels,
)
from vidleak_jax.attacks.matching.iterative import Iterative
from vidleak_jax.attacks.matching.match import Term
from vidleak_jax.attacks.matching.recipe import Priors
from vidleak_jax.options import option
from vidleak_jax.types import (
  Array,
  Guess,
  Layer,
  Leak,
  Target,
  UserError,
  Victim,
  attempt,
)

_RIDGE = 1e-7  # of the largest eigenvalue, when whitening
_LARGEST_BATCH = 64  # clips of one update that are told apart
# After several local steps; chosen on one clip of photo_motion's train split:
_KERNEL_WEIGHT = 0.3   # of its equations beside the features'


@dataclasses.dataclass(frozen=True)
class FeatureMatching(Iterative):
  """Matches exact targets from the head's gradient.

  Total variation that fades away takes the place of the prior. Networks that
  are plain chains of layers; batches are separated at the head first.

  >>> FeatureMatching(num_steps=300).prior_schedule
  'geometric'
  """
  name: ClassVar[str] = 'feature_matching'
  cost: ClassVar[int] = 30
  num_steps: int = option(1000, 'of each restart', low=1, high=10**9)
  priors: Priors = option(Priors(1.0, 1.0, 3.0, 0.0), 'weights')
  prior_schedule: str = option(
      'geometric', 'how they fall',
      choices=('constant', 'cosine', 'geometric', 'steps'))
  learning_rate: float = option(0.1, 'after the warm-up', above=0, high=1e6,
                                traced=True)
  beta2: float = option(0.99, "Adam's memory", above=0, below=1, traced=True)
  coarse: float = option(0.0, 'share of coarse steps', low=0, high=1,
                         traced=True)
  level_rounds: int = option(
      40, 'of Gauss-Newton with a prior of video, in which pixels that came '
      'near to its 256 levels are held there; 0: none', low=0, high=1000)
  level_inner_steps: int = option(
      100, 'conjugate gradients in each', low=1, high=10**4)
  path_rounds: int = option(
      24, 'after several local steps: corrections of the targets by the '
      "client's path from the guess, each with Gauss-Newton after it, until "
      'they no longer help',
      low=0, high=1000)

  def requires(self, victim: Victim, leak: Leak) -> list[str]:
    """See `Attack.requires`."""
    reasons = []
    public, training = leak.public, leak.public.federated
    if training.algorithm == 'fedavg':
      if training.optimizer not in ('sgd', 'momentum'):
        reasons.append(
            f'the updates of optimizer={training.optimizer} are no sums of '
            'gradients: use ig')
      elif (training.num_local_steps(public.batch_size)
            < training.steps_an_epoch(public.batch_size)):
        reasons.append('the client trains for less than an epoch, on some of '
                       'its clips alone: use ig')
    if public.batch_size > min(victim.num_classes - 1, _LARGEST_BATCH):
      reasons.append(
          f'batches of {public.batch_size} cannot be separated by a head of '
          f'{victim.num_classes} classes; up to '
          f'{min(victim.num_classes - 1, _LARGEST_BATCH)} can')
    if len(victim.layers) < 2:
      reasons.append('it needs a network that is a plain chain of layers and '
                     'activations, such as c3d or lenet')
    elif 'bias' not in trees.named(leak.params, victim.layers[-1].name):
      reasons.append('it needs a bias in the last dense layer, whose gradient '
                     'separates the feature from its error')
    return reasons

  def prepare(self, problems: Sequence[Problem]) -> list[Target | UserError]:
    """See `Iterative.prepare`: peels layers while they are determined.

    A batch is separated at the head first, a weight change is taken as a
    gradient at a point between both weights (SME, ICML 2023). Each round tells
    of the same clips.
    """
    return feature_rounds.joined(problems, self._of_one_round)

  def _of_one_round(self, problems):
    leaks = [problem.leak for problem in problems]
    if leaks[0].public.batch_size == 1 and (
        leaks[0].public.federated.algorithm == 'fedsgd'):
      victim = problems[0].victim
      return feature_targets.targets(victim.layers, leaks, key=victim.key)
    return [attempt(feature_targets.separated, problem) for problem in problems]

  def templates(self, problem: Problem, target: Target) -> Guess:
    """See `Iterative.templates`: the clips of a batch come by their labels."""
    evidence, leak = target.evidence[0], problem.leak
    if isinstance(evidence, dict):
      return super().templates(problem, target)
    shape = leak.num_updates, leak.public.batch_size, *leak.public.clip_shape
    return Guess(np.zeros(shape, np.float32),
                 np.asarray(feature_rounds.feature_target(evidence).labels))

  def finish(self, problem: Problem, target: Target, outcome: Outcome
             ) -> Outcome:
    """See `Iterative.finish`: the answer is refined first.

    After several local steps targets are corrected; else pixels are settled on
    whole levels.
    """
    outcome = outcome._replace(findings=outcome.findings | feature_rounds.note(
        problem.leak, target))
    eight_bit = bool(self.level_rounds and problem.leak.public.eight_bit)
    if self.path_rounds and path_refinement.applies(
        problem.victim, problem.leak):
      outcome = path_refinement.refined(
          problem, outcome, self.path_rounds, eight_bit)
    elif self.level_rounds and not any(
        isinstance(each, feature_targets.About) for each in target.evidence):
      outcome = self._on_levels(problem, target, outcome)
    return outcome if CUT in outcome.findings else super().finish(
        problem, target, outcome)

  def easier(self, problem: Problem, outcome: Outcome) -> Problem | None:
    """See `Iterative.easier`: the first round, of several rounds' gradients.

    Where the loss rises between rounds, all equations together are harder to
    meet than those of one. Local steps try it by themselves.
    """
    return (None if path_refinement.applies(problem.victim, problem.leak)
            else feature_rounds.first_alone(problem, outcome))

  def _on_levels(self, problem: Problem, target: Target, outcome: Outcome
                 ) -> Outcome:
    began = time.perf_counter()
    session, victim = problem.session, problem.victim
    recovery = outcome.recovery

    def go_on(done, share):
      return session.go_on('whole levels', done, self.level_rounds, sure=share)

    one = residuals(victim.layers)
    several = batch_features.residuals(victim.layers)

    def equations(clips, target):
      seen = target.evidence
      return (one(clips, target) if isinstance(seen, dict)
              else several(clips, seen))

    settled = [whole_levels.settle(
        feature_rounds.stacked(equations),
        Target(target.params, trees.take(target.evidence, i)), clips,
        rounds=self.level_rounds, inner_steps=self.level_inner_steps,
        key=('features', victim.key), go_on=go_on,
        hold=problem.leak.public.eight_bit)
               for i, clips in enumerate(recovery.clips)]
    session.tell('whole levels', self.level_rounds, self.level_rounds)
    seconds = outcome.cost.seconds_attack + time.perf_counter() - began
    return Outcome(
        recovery._replace(
            clips=np.stack([each.clips for each in settled]),
            objective=np.array([each.misfit for each in settled], np.float32)),
        outcome.cost._replace(seconds_attack=seconds),
        outcome.findings | {
            'on_levels': float(np.mean([each.share for each in settled]))})

  def term(self, victim: Victim, leak: Leak) -> Term:
    """See `Iterative.term`."""
    one = feature_match(victim.layers)
    several = batch_features.feature_match(victim.layers)
    about = batch_features.feature_match(
        victim.layers, exact=False, kernel_weight=_KERNEL_WEIGHT)

    def term(guess, target):
      seen = target.evidence
      if isinstance(seen, dict):
        return one(guess, target)
      if isinstance(seen, feature_targets.About):
        return about(guess.clips, seen.target)
      return several(guess.clips, seen)
    return feature_rounds.mean(term)


def feature_match(layers: tuple[Layer, ...]) -> Term:
  """Returns the match for updates of one clip each.

  It is the relative squared error of a layer's output plus that of its
  kernel's gradient, whitened; `feature_targets.targets` says of which layer.

  Args:
    layers: a victim's, the dense head last.
  """
  equations = residuals(layers)

  def term(guess, target):
    return sum(jnp.sum(r ** 2) for r in equations(guess.clips, target))
  return term


def residuals(
    layers: tuple[Layer, ...]
) -> Callable[[Array, Target], tuple[Array, Array]]:
  """The equations of one clip: `(clips, target) -> (output's, kernel's)`.

  Each is relative to its target, so that the sum of all squares is the sum of
  two relative squared errors.

  Args:
    layers: a victim's, the dense head last.
  """
  names = [layer.name for layer in layers]

  def equations(clips, target):
    (name, seen), = target.evidence.items()
    down_to = layers[:names.index(name) + 1]
    layer, params = down_to[-1], chain.leaves(down_to, target.params)
    x, z = chain.run(down_to, params, clips)
    known, slope = seen.output[None], seen.slope[None]
    if layer.activation in INVERTIBLE:
      inverse = INVERTIBLE[layer.activation]
      goal = inverse.inverse(known)
      off, steep = z - goal, inverse.slope(known)
    else:  # the sign of what is lost has to come from the guess
      goal, inverse = known, None
      off = layer.activate(z) - goal
      steep = lax.stop_gradient(_slope(layer, z))
    if seen.doubt is not None:
      off = feature_targets.certain(off, seen.doubt)
      if inverse is not None and inverse.kinked:
        steep = feature_targets.likely_slope(inverse, seen, z, off)
    dz = slope * steep
    kernel = params[layer.name]['kernel']
    _, pull = jax.vjp(lambda kernel: layer.linear(kernel, x), kernel)
    rows = _rows(pull(dz)[0])
    white = _whitening(_rows(dz))
    return _relative(off, goal), _relative(
        (rows - seen.kernel) @ white, seen.kernel @ white)
  return equations


def _slope(layer, z):
  return jax.jvp(layer.activate, (z,), (jnp.ones_like(z),))[1]


def _rows(array):
  return array.reshape(-1, array.shape[-1])


def _whitening(rows):
  """The inverse square root of the rows' second moments, [C, C]."""
  values, vectors = jnp.linalg.eigh(rows.T @ rows)
  values = jnp.maximum(values, 0) + _RIDGE * values[-1]
  return lax.stop_gradient((vectors * lax.rsqrt(values)[None]) @ vectors.T)


def _relative(difference, target):
  return difference * lax.rsqrt(jnp.sum(target ** 2))


