"""FedAvg: a client trains, and sends how its weights changed (1602.05629).

Local training is what clients really run: epochs over minibatches in an order
of their own, SGD with or without momentum, Adam, weight decay as torch adds it,
and FedProx's pull towards the server's weights (1812.06127).
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vidleak_jax import trees
from vidleak_jax.clients.base import Loss
from vidleak_jax.errors import UserError
from vidleak_jax.options import option
from vidleak_jax.specs import OPTIMIZERS, FederatedSpec, LocalTraining
from vidleak_jax.types import Array, Params, PRNGKey

_STATISTICS = 'batch_stats'  # buffers of BatchNorm; no optimiser touches them


@dataclass(frozen=True)
class FedAvg(LocalTraining):
  """Trains on its clips; sends start minus end weights.

  The sign is that of a gradient, so that both kinds of update point uphill.
  `optimizer` is a name, or any optax transform, its learning rate included:
  the attacker is not told what that does.

  >>> FedAvg(local_epochs=5, local_batch_size=2,
  ...        optimizer='adam').num_local_steps(batch_size=4)
  10
  """
  optimizer: Any = option('sgd', 'sgd, momentum, adam, or an optax transform')
  per: str = option('clip', 'what one update covers',
                    choices=('clip', 'frame', 'batch'))
  labels_known: bool = option(False, 'whether the labels are sent along')

  def __post_init__(self):
    super().__post_init__()
    if not (isinstance(self.optimizer, optax.GradientTransformation)
            or self.optimizer in OPTIMIZERS):
      raise UserError(
          f'optimizer is {self.optimizer!r}; it must be one of '
          f'{", ".join(OPTIMIZERS[:-1])}, or an optax transform such as '
          'optax.sgd(1e-3).')

  def draw_order(self, key: PRNGKey, batch_size: int) -> Array | None:
    """Returns a random order of the clips for each epoch.

    Args:
      key: the client's; consumed.
      batch_size: B.

    Returns:
      [epochs, B] int32; None where each step covers all clips.
    """
    if not self.is_shuffled(batch_size):
      return None
    epochs = -(-self.num_local_steps(batch_size)
               // self.steps_an_epoch(batch_size))
    return jax.vmap(lambda key: jax.random.permutation(key, batch_size))(
        jax.random.split(key, epochs)).astype(jnp.int32)

  def update(self, loss: Loss, params: Params, clips: Array, labels: Array,
             key: PRNGKey | None = None, order: Array | None = None) -> Params:
    """Returns the weights before training minus those after it.

    Args:
      loss: the victim's.
      params: the weights that the server sent.
      clips: [B, T, H, W, C].
      labels: [B] int32.
      key: switches the victim's dropout on; consumed.
      order: [epochs, B] int32, of `draw_order`. None: each step takes the mean
        gradient of all clips, which is what minibatches do on average; it is
        what somebody who does not know the order can simulate.

    Raises:
      UserError: for an optimiser that is not told.
    """
    optimizer = _optimizer(self)
    clips, labels = jnp.asarray(clips), jnp.asarray(labels)

    def step(carry, rows_and_index):
      rows, index = rows_and_index
      local, state = carry
      own = (clips, labels) if rows is None else (clips[rows], labels[rows])
      step_key = None if key is None else jax.random.fold_in(key, index)
      slope = jax.grad(loss)(local, *own, step_key)
      slope = _regularised(self, slope, local, params)
      change, state = optimizer.update(slope, state, local)
      return (optax.apply_updates(local, change), state), None

    # Each step is computed again where it is differentiated: the memory of an
    # attack on many steps is that of one.
    again = jax.checkpoint(step, prevent_cse=False)
    carry = params, optimizer.init(params)
    steps = self.num_local_steps(len(clips))
    rows = _minibatches(self, order, len(clips))
    if steps == 1:
      carry, _ = step(carry, (None if rows is None else rows[0], 0))
    elif isinstance(rows, list):  # of unequal sizes
      for index, own in enumerate(rows):
        carry, _ = again(carry, (own, index))
    else:
      carry, _ = jax.lax.scan(again, carry, (rows, jnp.arange(steps)))
    return jax.tree.map(jnp.subtract, params, carry[0])

  def to_spec(self) -> FederatedSpec:
    """Returns the public facts about it; a transform is not among them."""
    facts = self.to_dict()
    if not isinstance(self.optimizer, str):
      facts['optimizer'] = 'other'
    return FederatedSpec(
        message=facts.pop('per'), algorithm='fedavg', **facts)


def _optimizer(client: FedAvg) -> optax.GradientTransformation:
  if isinstance(client.optimizer, optax.GradientTransformation):
    return client.optimizer
  if client.optimizer == 'other':
    raise UserError(
        "The client's optimiser is not told (federated.optimizer is other), so "
        'its training cannot be simulated. Say which it is: sgd, momentum or '
        'adam.')
  rate = client.local_learning_rate
  return {'sgd': optax.sgd(rate), 'momentum': optax.sgd(rate, client.momentum),
          'adam': optax.adam(rate)}[client.optimizer]


def _regularised(client, slope, local, start):
  """The gradient with weight decay and the proximal term, of weights alone."""
  if not client.weight_decay and not client.proximal:
    return slope

  def add(path, slope, weight, origin):
    if trees.path_name(path).startswith(_STATISTICS):
      return slope
    return (slope + client.weight_decay * weight
            + client.proximal * (weight - origin))
  return jax.tree_util.tree_map_with_path(add, slope, local, start)


def _minibatches(client, order, batch_size):
  """Which clips each step covers: None: all; [steps, b]; or a list of those.

  It is a list where the clips do not fill the last minibatch of an epoch.
  """
  if order is None or not client.is_shuffled(batch_size):
    return None
  steps, size = client.num_local_steps(batch_size), client.local_batch_size
  if batch_size % size == 0:
    return order.reshape(-1, size)[:steps]
  rows = [epoch[start:start + size] for epoch in order
          for start in range(0, batch_size, size)]
  return rows[:steps]
