"""Gauss-Newton on the update itself, from a start that is nearly right.

The map from a clip to its gradient, or to the weight change of its local
training, is known, and smooth where the activations are. Near the truth a few
linear least-squares problems in float64 reach what the rounding of the leak
allows; first-order matching in float32 would crawl there. With ReLU a weight
change jumps with the signs of units all along the way: there it seldom helps.
"""

import functools
import time
from collections.abc import Callable, Hashable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from vidleak_jax.attacks.analytic import linear_solvers, per_message
from vidleak_jax.attacks.base import Outcome, Problem
from vidleak_jax.attacks.residual import best_orders
from vidleak_jax.clients import client_from
from vidleak_jax.types import Array, Leak

# A leaf below this share of the whole gradient is float32's rounding alone: a
# bias of attention's keys, whose true gradient is zero. Those of initialised
# networks have 5e-9, the smallest others 1e-4.
_ROUNDING = 1e-7


class Polished(NamedTuple):
  """Clips, and how well their gradients match."""
  clips: np.ndarray   # [M, B, T, H, W, C] float64
  before: np.ndarray  # [M] relative residual of the start, see `polish`
  after: np.ndarray   # [M] of the clips; never above `before`


def polish(
    loss_fn: Callable[..., Array],
    leak: Leak,
    clips: np.ndarray,
    labels: np.ndarray,
    *,
    num_steps: int = 3,
    inner_steps: int = 200,
    orders: np.ndarray | None = None,
    key: Hashable | None = None,
) -> Polished:
  """Refines clips until their updates match the leak's.

  A step that does not lower the residual, the root of the mean over leaves of
  |g - leak|^2 / |leak|^2, is halved up to four times; if nothing helps it is
  the last. Leaves that are rounding alone do not count. A gradient that a
  defence has scaled, by clipping its norm, is matched up to that scale, where
  that halves the start's residual.

  Args:
    loss_fn: (params, clips, labels) -> [], the victim's.
    leak: M messages; entries that are exactly zero count as missing.
    clips: [M, B, T, H, W, C] the start.
    labels: [M, B].
    num_steps: Gauss-Newton steps; 0 only measures, in float32.
    inner_steps: conjugate gradient iterations in each.
    orders: [M, rounds, epochs, B] of minibatches, where clients train on some
      in turn.
    key: of the victim, `Victim.key`: victims of equal keys share the program.
      None: the loss itself.
  """
  client = client_from(leak.public.federated)
  # A loss that brings weights of its own has them as arguments of the program.
  weights, rebuild = jax.tree.flatten(
      loss_fn if isinstance(loss_fn, Partial) else Partial(loss_fn))

  def send(constants, clips, labels, order):
    weights, params = constants
    loss = jax.tree.unflatten(rebuild, weights)
    return tuple(
        client.update(loss, own, clips, labels,
                      **({} if orders is None else {'order': order[i]}))
        for i, own in enumerate(params))
  step = functools.partial(_polish_one, send, num_steps, inner_steps)
  rows = np.zeros(leak.num_updates) if orders is None else orders
  dtype = np.float64 if num_steps else np.float32
  rounds = leak.rounds()
  params, update, clips, weights = jax.tree.map(
      lambda a: np.asarray(a, dtype),
      (tuple(one.params for one in rounds),
       tuple(one.update for one in rounds), clips, weights))
  return Polished(*per_message.over_messages(
      step, (weights, params), (update, clips, np.asarray(labels), rows),
      key=('polish', loss_fn if key is None else key, leak.public.federated,
           orders is None, num_steps, inner_steps)))


def polished(
    problem: Problem, outcome: Outcome, num_steps: int, inner_steps: int
) -> Outcome:
  """Returns the outcome after Gauss-Newton in float64, see `polish`."""
  if not num_steps:
    return outcome
  began = time.perf_counter()
  recovery, cost = outcome.recovery, outcome.cost
  result = polish(
      problem.victim.loss, problem.leak, recovery.clips, recovery.labels,
      num_steps=num_steps, inner_steps=inner_steps, key=problem.victim.key,
      orders=best_orders(
          problem.victim, problem.leak, recovery.clips, recovery.labels))
  seconds = time.perf_counter() - began
  return Outcome(
      recovery._replace(
          clips=np.clip(result.clips, 0.0, 1.0).astype(np.float32),
          objective=result.after.astype(np.float32)),
      cost._replace(seconds_attack=cost.seconds_attack + seconds),
      outcome.findings | {
          'residual_before_polish': float(result.before.max()),
          'residual_after_polish': float(result.after.max())})


def _polish_one(send, num_steps, inner_steps, constants, message):
  update, clips, labels, order = message
  sizes = jax.tree.map(lambda g: jnp.linalg.norm(g.ravel()), update)
  floor = _ROUNDING * jnp.linalg.norm(jnp.stack(jax.tree.leaves(sizes)))
  count = sum(size > floor for size in jax.tree.leaves(sizes))
  weights = jax.tree.map(
      lambda g, size: (g != 0) * jnp.where(
          size > floor, 1 / jnp.maximum(size, 1e-30), 0.0), update, sizes)

  def gradient(clips):
    return send(constants, clips, labels, order)

  first = gradient(clips)
  _, is_scaled = _share(first, update, weights)

  def residual(gradient):
    share, _ = _share(gradient, update, weights)
    scale = jnp.where(is_scaled, share, 1.0)
    return jax.tree.map(
        lambda w, g, t: w * (scale * g - t), weights, gradient, update)

  def size(gradient):
    parts = [jnp.sum(r ** 2) for r in jax.tree.leaves(residual(gradient))]
    return jnp.sqrt(sum(parts) / jnp.maximum(count, 1))

  def going_on(state):
    *_, step, gained = state
    return gained & (step < num_steps)

  def body(state):
    clips, best, step, _ = state
    r, forward = jax.linearize(lambda x: residual(gradient(x)), clips)
    move = linear_solvers.least_squares(
        forward, jax.tree.map(jnp.negative, r), jnp.zeros_like(clips),
        jnp.ones_like(clips), max_steps=inner_steps, tolerance=1e-8).x

    def halve(state):
      length, _ = state
      return length / 2, size(gradient(clips + length / 2 * move))

    length, new = jax.lax.while_loop(
        lambda state: ~(state[1] < best) & (state[0] > 0.1), halve,
        (2.0, jnp.full_like(best, jnp.inf)))
    better = new < best
    return (jnp.where(better, clips + length * move, clips),
            jnp.where(better, new, best), step + 1, better)

  before = size(first)
  if not num_steps:  # XLA would compile a step all the same: minutes
    return clips, before, before
  clips, after, *_ = jax.lax.while_loop(
      going_on, body, (clips, before, 0, jnp.array(True)))
  return clips, before, after


def _share(gradient, update, weights):
  """What the leak is of a gradient, and whether a defence has scaled it."""
  def dot(a, b):
    parts = jax.tree.map(
        lambda w, a, b: jnp.sum(w ** 2 * a * b), weights, a, b)
    return sum(jax.tree.leaves(parts))

  across, square, all_of_it = (
      dot(gradient, update), dot(gradient, gradient), dot(update, update))
  scaled = all_of_it - across ** 2 / jnp.maximum(square, 1e-30)
  plain = all_of_it - 2 * across + square
  return across / jnp.maximum(square, 1e-30), scaled < plain / 4
