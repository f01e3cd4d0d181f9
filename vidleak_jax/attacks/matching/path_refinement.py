"""Gauss-Newton on the features of several local steps, target by target.

A round corrects the targets at the surrogate point by the client's path from
the guess (`path_correction`), then takes a few steps of Gauss-Newton on the
last layer's outputs and its kernel's gradient. A better guess corrects better,
so that rounds contract. Of a client that was seen in several rounds of the
federation each update is corrected by a path of its own; the first round alone
is tried as well, since the rounds' equations together are harder to meet.
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
    gauss_newton,
    path_correction,
)
from vidleak_jax.attacks.residual import best_orders, gradient_residual
from vidleak_jax.runtime import memory, programs
from vidleak_jax.types import Leak, UserError, Victim, attempt

# Chosen on clips of photo_motion's train split:
_ERRORS = 1e-3, 1e-2      # of outputs and kernel, over their root mean square
_STEPS = 3                # of Gauss-Newton in a round
_INNER_STEPS = 100        # conjugate gradients in each

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


def refined(problem: Problem, outcome: Outcome, rounds: int) -> Outcome:
  """Returns the outcome after some rounds, the best one of each update.

  The gradient residual says which is best, and may say that the start is. When
  the session's time is over, no further round begins; where memory does not
  suffice none does, and `path_note` says so.

  Args:
    problem: a leak to which this `applies`.
    outcome: of feature matching: its clips come in the order of its labels.
    rounds: of corrections.
  """
  if too_large := _too_large(problem.leak):
    return outcome._replace(
        findings=outcome.findings | {'path_note': str(too_large)})
  began = time.perf_counter()
  recovery = outcome.recovery
  clips, labels = np.array(recovery.clips), recovery.labels
  best, before = clips.copy(), _measure(problem, clips, labels)
  least = before.copy()
  known = _known(problem, clips, labels)
  plans = [known]
  if any(len(sent) > 1 for sent in known):  # more equations, not always better
    plans.append([sent[:1] for sent in known])
  cut, total = {}, rounds * len(plans)
  for done in range(total):
    if not problem.session.go_on('path', done, total,
                                 gradient_residual=float(least.mean())):
      cut = {CUT: f'stopped after {done} of {total} corrections'}
      break
    plan, number = divmod(done, rounds)
    if not number:
      clips = np.array(recovery.clips)
    for i, sent in enumerate(plans[plan]):
      clips[i] = _round(problem, sent, clips[i])
    residual = _measure(problem, clips, labels)
    better = residual < least
    best[better], least[better] = clips[better], residual[better]
  else:
    problem.session.tell('path', total, total,
                         gradient_residual=float(least.mean()))
  seconds = time.perf_counter() - began
  cost = outcome.cost
  return Outcome(
      recovery._replace(clips=best),
      cost._replace(seconds_attack=cost.seconds_attack + seconds),
      outcome.findings | {'residual_before_path': float(before.max()),
                          'residual_after_path': float(least.max())} | cut)


def _measure(problem, clips, labels):
  return gradient_residual(problem.victim, problem.leak, clips, labels)


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


def _round(problem, sent, clips):
  victim, training = problem.victim, problem.leak.public.federated
  correct = programs.default().get(
      ('path', victim.key, training, len(clips)),
      lambda: jax.jit(functools.partial(
          path_correction.corrected, victim, training)))
  equations = batch_features.residuals(victim.layers, exact=False)

  def residual(clips, targets):
    return [tuple(r * (r.size ** 0.5 / error) for r, error in zip(
        equations(clips, target), _ERRORS, strict=True)) for target in targets]

  return gauss_newton.minimize(
      residual, [correct(one, jnp.asarray(clips)) for one in sent], clips,
      gauss_newton.Options(steps=(_STEPS,), inner_steps=_INNER_STEPS),
      key=('path', victim.key)).pixels
