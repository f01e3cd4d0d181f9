"""The attack for clients that train by Adam in minibatches."""

import dataclasses
import functools
import time
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vidleak_jax import trees
from vidleak_jax.attacks import labels as label_inference
from vidleak_jax.attacks.base import CUT, Attack, Cost, Effort, Outcome, Problem
from vidleak_jax.attacks.matching import adam_head, chain, optimizers
from vidleak_jax.attacks.matching.priors import (
    colour_tv,
    spatial_tv,
    temporal_tv,
)
from vidleak_jax.options import option
from vidleak_jax.runtime import programs
from vidleak_jax.types import Guess, Leak, Recovery, Row, Victim

# Chosen on eight clips of photo_motion's train split:
_COLOUR = 3.0       # weight of the variation between colours beside the others
_EDGES = 0.3, 0.1   # what is smoothed in the first and the last step
_EVERY = 25         # steps between two looks at the path and the order
_ANEW = 100, 200    # steps after which other orders are tried, too
_START = 0.5, 0.05  # mean and standard deviation of the first guess


@dataclasses.dataclass(frozen=True)
class AdamMatching(Attack):
  """Matches what Adam's steps made of the head, in the order that fits.

  The head is simulated step by step from the guess's features. The order of
  minibatches starts at random, and clips change places while that lowers the
  misfit, as the guess gets better.

  >>> AdamMatching().num_steps
  400
  """
  name: ClassVar[str] = 'adam_matching'
  cost: ClassVar[int] = 70
  num_steps: int = option(400, 'of the descent', low=1, high=10**6)
  learning_rate: float = option(0.05, 'of the pixels', above=0, high=1e6)
  prior: float = option(1.0, 'weight of total variation', low=0)

  def requires(self, victim: Victim, leak: Leak) -> list[str]:
    """See `Attack.requires`."""
    training, count = leak.public.federated, leak.public.batch_size
    if training.algorithm != 'fedavg' or training.optimizer != 'adam':
      return ['it needs a client that trains by Adam']
    reasons = []
    if not training.is_shuffled(count) or count % training.local_batch_size:
      reasons.append('it needs minibatches of equal size')
    if training.weight_decay or training.proximal:
      reasons.append('it supposes neither weight decay nor a proximal term')
    if len(victim.layers) < 2:
      reasons.append('it needs a network that is a plain chain of layers and '
                     'activations, such as c3d or lenet')
    elif 'bias' not in trees.named(leak.params, victim.layers[-1].name):
      reasons.append('it needs a bias in the last dense layer')
    return reasons

  def run(self, problem: Problem, effort: Effort) -> Outcome:
    """See `Attack.run`."""
    victim, leak = problem.victim, problem.leak
    self.check(victim, leak)
    began = time.perf_counter()
    labels = leak.labels if leak.labels is not None else np.stack([
        each.labels for each in label_inference.infer_all(leak, victim.head)])
    total = effort.num_steps or self.num_steps
    found = [self._one(problem, i, np.asarray(labels[i]), total)
             for i in range(leak.num_updates)]
    clips, misfits, done = zip(*found, strict=True)
    cut: Row = {}
    if min(done) < total:
      cut[CUT] = f'stopped after {min(done)} of {total} steps'
    recovery = Recovery(np.stack(clips), np.asarray(labels, np.int32),
                        np.array(misfits, np.float32))
    return Outcome(
        recovery, Cost(seconds_attack=time.perf_counter() - began,
                       num_steps=total, restart_steps=sum(done)),
        {'head_misfit': float(np.mean(misfits))} | cut)

  def _one(self, problem, index, labels, total):
    """(clips [B, T, H, W, C], misfit of the head, steps done)."""
    victim, leak = problem.victim, problem.leak
    training, count = leak.public.federated, leak.public.batch_size
    rate, size = training.local_learning_rate, training.local_batch_size
    start_key, order_key, column_key = jax.random.split(
        jax.random.fold_in(problem.key, index), 3)
    update = trees.take(leak.update, index)
    name = victim.layers[-1].name
    head = adam_head.read(*(jax.tree.map(np.asarray, trees.named(tree, name))
                            for tree in (leak.params, update)),
                          labels, rate, column_key)
    steps = training.num_local_steps(count)
    epochs = -(-steps // training.steps_an_epoch(count))

    def draw(done, number):
      keys = jax.random.split(
          jax.random.fold_in(order_key, done), (number, epochs))
      return [np.stack([np.asarray(jax.random.permutation(key, count))
                        for key in row]) for row in keys]
    order, = draw(total, 1)
    follow, move, optimizer = programs.default().get(
        ('adam_matching', victim.key, training, count, total, self),
        lambda: self._programs(victim, steps, rate, total))
    mean, std = _START
    clips = jnp.clip(mean + std * jax.random.normal(
        start_key, (count, *leak.public.clip_shape)), 0, 1)
    state, done, value = optimizer.init(clips), 0, np.nan
    while done < total:
      start, along = follow(leak.params, update, head, clips)
      order, value = min((adam_head.better_order(
          head, start, along, each, size, rate)
          for each in (order, *draw(done, done in _ANEW))),
          key=lambda found: found[1])
      chunk = min(_EVERY, total - done)
      for k in range(done, done + chunk):
        edge = _EDGES[0] * (_EDGES[1] / _EDGES[0]) ** (k / total)
        clips, state = move(leak.params, head, clips, state, along,
                            order.reshape(-1, size)[:steps], edge)
      done += chunk
      if not problem.session.go_on('adam', done, total, head_misfit=value):
        break
    return np.asarray(clips), value, done

  def _programs(self, victim, steps, rate, total):
    """(features and path of clips, a step of the descent, its optimiser)."""
    layers = victim.layers
    optimizer = optimizers.build(
        'adam', self.learning_rate, total, schedule='cosine', warmup_steps=0,
        beta2=0.999, memory=1, coarse=0.25)

    @jax.jit
    def follow(params, update, head, clips):
      return (chain.features(layers, params, clips),
              adam_head.path(layers, params, update, head, clips, steps))

    @functools.partial(jax.jit, donate_argnums=3)
    def move(params, head, clips, state, along, order, edge):
      def objective(clips):
        guess = Guess(clips, head.labels)
        variation = (spatial_tv(guess, None) + temporal_tv(guess, None)
                     + _COLOUR * colour_tv(guess, None))
        return self.prior * variation + adam_head.misfit(
            head, chain.features(layers, params, clips), along, order, rate,
            edge)
      change, state = optimizer.update(jax.grad(objective)(clips), state, clips)
      return jnp.clip(optax.apply_updates(clips, change), 0, 1), state
    return follow, move, optimizer
