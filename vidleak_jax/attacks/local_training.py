"""What a weight change is, in gradients: gains, weights and orders of steps.

Plain and momentum SGD are linear in their gradients. With weight decay d,
FedProx's m, momentum b and rate r, step k of N does

  v <- b v + g_k + d w + m (w - w_0),   w <- w - r v,

so that the update is u = w_0 - w_N = sum_k W_k g_k + C w_0, with numbers W_k
and C that follow from the public facts. If the gradients hardly change,
(u - C w_0) / sum_k W_k is their mean. Adam is not linear: its steps are about
the signs of the gradients, and u / (r N) lies about in [-1, 1].
"""

import functools
import itertools
import math
from typing import NamedTuple

import jax
import numpy as np

from vidleak_jax import trees
from vidleak_jax.specs import FederatedSpec, LocalTraining
from vidleak_jax.types import Leak, Params, UserError

_ORDERS = 24  # orders of minibatches that are tried one by one
_STATISTICS = 'batch_stats'


class Turns(NamedTuple):
  """What an order of minibatches makes of each clip's gradient.

  With e_b the error of clip b's logits, the head's part of the mean gradient is
  sum_b w_b / B h_b e_b, w_b = B sum_k shares_kb, and clip b was seen by a head
  that earlier steps had moved by -sum_c before_bc h_c e_c.
  """
  shares: np.ndarray  # [orders, N, B] of a clip in the update, step by step
  before: np.ndarray  # [orders, B, B]

  @property
  def weights(self) -> np.ndarray:
    """[orders, B] of a clip in the update, over the mean."""
    return self.shares.shape[-1] * self.shares.sum(-2)

  @classmethod
  def of_one_gradient(cls, batch_size: int) -> 'Turns':
    return cls(np.full((1, 1, batch_size), 1 / batch_size),
               np.zeros((1, batch_size, batch_size)))


class Response(NamedTuple):
  """What a linear optimiser makes of constant gradients and of the weights."""
  weights: np.ndarray  # [N], W_k
  decay: float         # C

  @property
  def gain(self) -> float:
    return float(self.weights.sum())


def check_optimizer(federated: FederatedSpec) -> None:
  """Raises UserError where nobody could simulate the client."""
  if federated.algorithm == 'fedavg' and federated.optimizer == 'other':
    raise UserError(
        "The client's optimiser is not told: federated.optimizer is other, so "
        'that neither attacks nor the gradient residual can simulate it. Say '
        'which it is in leak.json: sgd, momentum or adam.')


def is_linear(training: LocalTraining) -> bool:
  """Whether an update is a known weighted sum of gradients."""
  return training.optimizer in ('sgd', 'momentum')


def response(training: LocalTraining, batch_size: int) -> Response:
  """Returns the weights W_k of each step's gradient, and C.

  Args:
    training: with plain or momentum SGD.
    batch_size: clips of one update.
  """
  rate, steps = training.local_learning_rate, training.num_local_steps(
      batch_size)
  momentum = training.momentum if training.optimizer == 'momentum' else 0.0
  pull = training.weight_decay + training.proximal

  def moved(impulse, weight):
    """How far a number has moved after each step; it starts at `weight`."""
    away, velocity, path = 0.0, 0.0, []  # away = start - now
    for step in range(steps):
      slope = training.weight_decay * weight - pull * away
      velocity = momentum * velocity + slope + impulse * (step == 0)
      away += rate * velocity
      path.append(away)
    return path
  decay = moved(0.0, 1.0)[-1] if training.weight_decay else 0.0
  return Response(np.array(moved(1.0, 0.0)[::-1]), decay)


def mean_gradient(
    params: Params, update: Params, training: LocalTraining, batch_size: int
) -> Params:
  """Returns a weight change as the mean of the gradients that made it.

  Args:
    params: w_0.
    update: u of one client, or leaves [M, ...] of several.
    training: of the client; of Adam the answer is u / (r N), about signs.
    batch_size: clips of one update.
  """
  if not is_linear(training):
    scale = 1 / (training.local_learning_rate
                 * training.num_local_steps(batch_size))
    return jax.tree.map(lambda u: scale * u, update)
  seen = response(training, batch_size)

  def undone(path, u, w):
    decay = 0.0 if trees.path_name(path).startswith(_STATISTICS) else seen.decay
    return (u - decay * w) / seen.gain
  return jax.tree_util.tree_map_with_path(undone, update, params)


def position(training: LocalTraining, batch_size: int) -> float:
  """Returns how far along u the steps start, on average, if gradients stay."""
  weights = response(training, batch_size).weights
  after = np.cumsum(weights[::-1]) - weights[::-1]
  return float(weights[::-1] @ after / weights.sum() ** 2)


def shares(training: LocalTraining, batch_size: int,
           order: np.ndarray | None) -> np.ndarray:
  """Returns what each clip's gradient in each step is of the mean gradient.

  Args:
    training: with plain or momentum SGD.
    batch_size: B.
    order: [epochs, B] of the clips; None: each step takes all of them.

  Returns:
    [N, B], of sum 1.
  """
  seen = response(training, batch_size)
  each, size = training.steps_an_epoch(batch_size), training.local_batch_size
  rows = np.full((len(seen.weights), batch_size), 1 / batch_size)
  if order is not None:
    for k, row in enumerate(rows):
      own = order[k // each][size * (k % each):][:size]
      row[:] = np.isin(np.arange(batch_size), own) / len(own)
  return seen.weights[:, None] * rows / seen.gain


def turns(training: LocalTraining, batch_size: int,
          tried: np.ndarray) -> Turns:
  """Returns what each order makes of the clips.

  Args:
    training: with plain or momentum SGD.
    batch_size: B.
    tried: [orders, epochs, B], in which each clip has a turn.
  """
  weights = response(training, batch_size).weights
  steps = len(weights)
  # What step j's gradient has moved before step k.
  moved = np.array([[weights[steps - k + j] if j < k else 0.0
                     for j in range(steps)] for k in range(steps)])
  each = np.stack([shares(training, batch_size, order) for order in tried])
  seen = each / each.sum(1, keepdims=True)      # of all that a clip sends
  in_step = each / each.sum(2, keepdims=True)   # of all that a step sends
  return Turns(each, seen.swapaxes(1, 2) @ moved @ in_step)


def largest_weight(training: LocalTraining, batch_size: int) -> float:
  """Returns the most that one clip can weigh in an update, over the mean.

  It is 1 where every step covers all clips, and above where momentum counts
  early minibatches more, or the last epoch is not complete.
  """
  if not training.is_shuffled(batch_size) or not is_linear(training):
    return 1.0
  weights = response(training, batch_size).weights
  size, each = training.local_batch_size, training.steps_an_epoch(batch_size)
  sizes = [min(size, batch_size - size * (k % each))
           for k in range(len(weights))]
  a_clip = weights / np.array(sizes)
  most = sum(a_clip[k:k + each].max() for k in range(0, len(weights), each))
  return max(1.0, float(batch_size * most / weights.sum()))


def orders(training: LocalTraining, batch_size: int) -> np.ndarray | None:
  """Returns every order of minibatches that makes a difference, if few.

  Args:
    training: of the client.
    batch_size: B.

  Returns:
    [orders, epochs, B] int32; None where each step covers all clips, or where
    there are too many orders to try.
  """
  if not training.is_shuffled(batch_size):
    return None
  size = training.local_batch_size
  epochs = -(-training.num_local_steps(batch_size)
             // training.steps_an_epoch(batch_size))
  count = _count(batch_size, size) ** epochs
  if count > _ORDERS:
    return None
  return np.array(list(itertools.product(
      _partitions(tuple(range(batch_size)), size), repeat=epochs)), np.int32)


def is_order_open(training: LocalTraining, batch_size: int) -> bool:
  """Returns whether minibatches have too many orders to try, see `orders`."""
  return training.is_shuffled(batch_size) and (
      orders(training, batch_size) is None)


def order_note(leak: Leak) -> str:
  """Returns what a measure supposes of an order that is not known, or ''."""
  federated, count = leak.public.federated, leak.public.batch_size
  if not federated.is_shuffled(count):
    return ''
  tried = orders(federated, count)
  if tried is None:
    return ('The order of minibatches is not known and has too many '
            'possibilities: each local step is simulated with the mean '
            'gradient of all clips, so that the truth has a residual too.')
  return (f'The order of minibatches is not known: the best of all '
          f'{len(tried)} is taken.')


def in_order_of_weight(
    labels: np.ndarray, bias_update: np.ndarray) -> np.ndarray:
  """Returns labels with those first whose clips weigh more in the update.

  Of one epoch in minibatches the clips may be named by their turn. Momentum
  counts early ones more, and a clip that counts more lowers its label's entry
  of the head's bias more.

  Args:
    labels: [B] of one update.
    bias_update: [K] the head's bias in the mean gradient.
  """
  classes, where, counts = np.unique(
      labels, return_inverse=True, return_counts=True)
  return labels[np.argsort(
      (bias_update[classes] / counts)[where], kind='stable')]


def _count(batch_size: int, size: int) -> int:
  """How many ordered partitions there are."""
  total, left = 1, batch_size
  while left > 0:
    total *= math.comb(left, min(size, left))
    left -= size
  return total


@functools.cache
def _partitions(rows: tuple[int, ...], size: int
                ) -> tuple[tuple[int, ...], ...]:
  """All ways to cut rows into minibatches, one after the other."""
  if len(rows) <= size:
    return (rows,)
  return tuple(
      first + rest for first in itertools.combinations(rows, size)
      for rest in _partitions(tuple(r for r in rows if r not in first), size))
