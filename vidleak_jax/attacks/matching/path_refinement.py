"""Gauss-Newton on the features of several local steps, target by target.

A round corrects the targets at the surrogate point by the client's path from
the guess (`path_correction`), then takes a few steps of Gauss-Newton on the
last layer's outputs and its kernel's gradient. A better guess corrects better,
so that rounds contract. How wrong the targets still are differs from channel to
channel, and the guess tells: a channel counts the more, the better its own
equations are met. Pixels that come near to whole levels are held there
(`whole_levels`), which leaves fewer unknowns to all others.

Of a client that was seen in several rounds of the federation each update is
corrected by a path of its own; the first round alone is tried as well, since
the rounds' equations together are harder to meet.
"""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np

from vidleak_jax import trees
from vidleak_jax.attacks import local_training
from vidleak_jax.attacks.analytic.activations import INVERTIBLE
from vidleak_jax.attacks.base import CUT, Outcome, Problem
from vidleak_jax.attacks.matching import (
    batch_features,
    chain,
    feature_rounds,
    feature_targets,
    most_likely,
    path_correction,
    whole_levels,
)
from vidleak_jax.attacks.residual import best_orders, gradient_residual
from vidleak_jax.runtime import memory, programs
from vidleak_jax.types import Leak, Row, UserError, Victim, attempt

# Chosen on clips of photo_motion's train split:
_OUTPUT_ERROR = 0.1  # relative, of the outputs, over that of the kernel
_EVEN = 0.3          # of all channels' error: what each one has at least
_STEPS = 3           # of Gauss-Newton in a round
_INNER_STEPS = 100   # conjugate gradients in each
_PATIENCE = 4        # rounds without a better answer, after which it ends
_TRUST = 0.1         # how far a pixel is expected to move in the first of them
_MOST = 0.5          # of the pixels, on levels: the others are rounded as well

_ROUNDING = 1e-6  # relative error that float32 leaves in any equation
_EXACT = 1e-5     # gradient residual at which nothing is left to improve
_COPIES = 3  # of a path's weights: simulated, bent, and in between


def applies(victim: Victim, leak: Leak) -> bool:
  """Whether the targets of a leak can be corrected by the client's path."""
  training, count = leak.public.federated, leak.public.batch_size
  return (training.algorithm == 'fedavg'
          and not local_training.is_order_open(training, count)
          and local_training.is_linear(training)
          and training.num_local_steps(count) > 1
          and victim.layers[-2].activation in INVERTIBLE)


def _too_large(leak: Leak) -> UserError | None:
  """Why the weights of all steps of the client's path do not fit the memory."""
  steps = leak.public.federated.num_local_steps(leak.public.batch_size)
  return attempt(
      memory.require, _COPIES * steps * memory.tree_bytes(leak.params),
      f'The weights of {steps} local steps', 'Nothing was corrected by the '
      "client's path.")


def refined(problem: Problem, outcome: Outcome, rounds: int,
            eight_bit: bool = False) -> Outcome:
  """Returns the outcome after some rounds, the best one of each update.

  The gradient residual says which is best, and may say that the start is. When
  the session's time is over, no further round begins; where memory does not
  suffice none does, and `path_note` says so.

  Args:
    problem: a leak to which this `applies`.
    outcome: of feature matching: its clips come in the order of its labels.
    rounds: of corrections, at most; they end where they no longer help.
    eight_bit: whether the clips' pixels lie on 256 levels.
  """
  if too_large := _too_large(problem.leak):
    return outcome._replace(
        findings=outcome.findings | {'path_note': str(too_large)})
  began = time.perf_counter()
  recovery, cost = outcome.recovery, outcome.cost
  answer = _Answer(problem, recovery.clips, recovery.labels, eight_bit)
  before, cut = answer.residual.copy(), {}
  answer.improve(recovery.clips)
  if not answer.is_exact:
    known = _known(problem, recovery.clips, recovery.labels)
    plans = [known]
    if any(len(sent) > 1 for sent in known):  # more equations, or fewer
      plans.append([sent[:1] for sent in known])
    for i, plan in enumerate(plans):
      cut = _descend(answer, plan, recovery.clips, range(
          i * rounds, (i + 1) * rounds), len(plans) * rounds)
      if cut or answer.is_exact:
        break
    if not cut and not answer.is_exact:
      answer.settle()
  if not cut:
    problem.session.tell('path', rounds, rounds, **answer.told)
  return Outcome(
      recovery._replace(clips=answer.clips),
      cost._replace(seconds_attack=cost.seconds_attack + time.perf_counter()
                    - began),
      outcome.findings | {'residual_before_path': float(before.max()),
                          'residual_after_path': float(answer.residual.max())}
      | ({'on_levels': answer.share} if eight_bit else {}) | cut)


class _Answer:
  """The best clips of each update so far, by the gradient residual."""

  def __init__(self, problem: Problem, clips: np.ndarray, labels: np.ndarray,
               eight_bit: bool):
    self.problem, self.eight_bit, self._labels = problem, eight_bit, labels
    self.clips = np.array(clips)
    self.residual = self._measure(clips)
    self._guess = self.clips.copy()  # of which they are perhaps the levels

  def improve(self, clips: np.ndarray) -> bool:
    """Takes what is better of clips, and of their levels; whether any was."""
    better = self._take(clips, clips)
    levels, sure = _levels(clips, self.eight_bit)
    if sure.mean() > _MOST:
      better |= self._take(levels, clips)
    return better

  def settle(self) -> None:
    """Tries other levels of the pixels that strain furthest from their own."""
    if self.share > whole_levels.NEARLY:
      self.clips = whole_levels.try_last(
          self.clips, self._guess - self.clips, self._measure,
          lambda: self.problem.session.seconds_left() > 0)
      self.residual = self._measure(self.clips)

  @property
  def share(self) -> float:
    """Of the pixels, those that lie on levels surely."""
    return float(_levels(self._guess, self.eight_bit)[1].mean())

  @property
  def is_exact(self) -> bool:
    return bool((self.residual < _EXACT).all())

  @property
  def told(self) -> Row:
    return {'gradient_residual': float(self.residual.mean())}

  def _take(self, clips, guess):
    residual = self._measure(clips)
    better = residual < self.residual
    self.clips[better], self.residual[better] = clips[better], residual[better]
    self._guess[better] = guess[better]
    return better.any()

  def _measure(self, clips):
    return np.array(gradient_residual(
        self.problem.victim, self.problem.leak, clips, self._labels))


def _descend(answer: _Answer, plan: list[list[path_correction.Sent]],
             clips: np.ndarray, numbers: range, total: int) -> Row:
  """Improves the answer by rounds from a start; why it was cut, or {}."""
  clips, idle = np.array(clips), 0
  for number in numbers:
    if not answer.problem.session.go_on('path', number, total, **answer.told):
      return {CUT: f'stopped after {number} of {total} corrections'}
    for i, sent in enumerate(plan):
      clips[i] = _round(answer.problem, sent, clips[i], answer.eight_bit)
    idle = 0 if answer.improve(clips) else idle + 1
    if answer.is_exact or idle == _PATIENCE:
      break
  return {}


def _levels(clips, eight_bit):
  """(The nearest levels, which pixels surely lie on them), [M, ...] each."""
  if not eight_bit:
    return clips, np.zeros(clips.shape, bool)
  levels, sure = zip(*map(whole_levels.nearest, clips), strict=True)
  return np.stack(levels), np.stack(sure)


def _known(problem, clips, labels):
  """Of each update what all usable rounds of the federation sent."""
  each_round = [starts(problem._replace(leak=one), clips, labels)
                for one in problem.leak.each_round()]
  known = []
  for rounds in zip(*each_round, strict=True):
    sure = feature_rounds.separated([sent.target for sent, _ in rounds])
    usable = [sent for (sent, matched), is_sure in zip(
        rounds, sure, strict=True) if matched and is_sure]
    known.append(usable or [rounds[0][0]])
  return known


def starts(problem: Problem, clips: np.ndarray, labels: np.ndarray
           ) -> list[tuple[path_correction.Sent, bool]]:
  """Returns what corrections start from, of each update of one round.

  The clips come in the order of the answer, where their features tell it; the
  second value says whether they do. The order of minibatches is the head's, if
  that is certified; else the one that fits the answer best.

  Args:
    problem: a leak to which this `applies`.
    clips: [M, B, T, H, W, C] an answer.
    labels: [M, B].
  """
  leak, sent = problem.leak, []
  training, count = leak.public.federated, leak.public.batch_size
  orders = best_orders(problem.victim, leak, clips, labels)
  for i in range(leak.num_updates):
    target, near = feature_targets.of_message(problem, i)
    order = feature_rounds.order_of(target._replace(
        output=chain.features(problem.victim.layers, near.params, clips[i]),
        labels=labels[i]), target)
    matched = order is not None
    order = order if matched else np.arange(count)
    target, unmixed = feature_rounds.permuted(target, order), near.unmixed
    shares = unmixed.shares[:, order] if unmixed and unmixed.certified else (
        local_training.shares(
            training, count, None if orders is None else orders[i][0]))
    sent.append((path_correction.Sent(
        leak.params, trees.take(leak.update, i), near.params,
        np.float32(near.scale), np.float32(shares), target), matched))
  return sent


def _round(problem, sent, clips, eight_bit):
  victim, training = problem.victim, problem.leak.public.federated
  correct, measure, move = programs.default().get(
      ('path', victim.key, training, len(clips)),
      lambda: _programs(victim, training))
  targets = [correct(one, jnp.asarray(clips)) for one in sent]
  errors = [_errors(*measure(clips, target)) for target in targets]
  (levels,), (sure,) = _levels(clips[None], eight_bit)
  trust = jnp.float32(_TRUST)
  for _ in range(_STEPS):
    step = move(jnp.asarray(clips), targets, errors, levels, sure, trust)
    clips, trust = step.clips, step.trust
  return np.asarray(clips)


def _programs(victim, training):
  """(correction, equations, a step towards the likely clips)."""
  equations = batch_features.residuals(victim.layers, exact=False)

  def move(clips, targets, errors, levels, sure, trust):
    def misses(clips):
      return [r * (r.size ** 0.5 / error)
              for target, each in zip(targets, errors, strict=True)
              for r, error in zip(equations(clips, target), each, strict=True)
              ] + [whole_levels.held_misses(clips, levels, sure)]
    return most_likely.newton_step(misses, _INNER_STEPS, clips, trust)
  return jax.jit(functools.partial(
      path_correction.corrected, victim, training)), jax.jit(
          equations), jax.jit(move)


def _errors(output, kernel):
  """The relative errors of the targets' channels, from a guess's misfits.

  Outputs are met better than they are known, since they decide the guess:
  their error is taken from that of the kernel's gradient.
  """
  error = np.linalg.norm(kernel) + _ROUNDING
  return (_OUTPUT_ERROR * error * _profile(output),
          error * _profile(kernel))


def _profile(misfits):
  """Each channel's error over the mean one, [1, ..., C] float32."""
  square = np.square(np.asarray(misfits))
  if square.size == square.shape[-1] or not square.any():  # no mean to take
    return np.ones(square.shape, np.float32)
  axes = tuple(range(square.ndim - 1))
  return np.sqrt(square.mean(axes, keepdims=True) / square.mean()
                 + _EVEN ** 2).astype(np.float32)
