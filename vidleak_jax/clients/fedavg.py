"""FedAvg: a client trains, and sends how its weights changed (1602.05629)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from vidleak_jax.clients.base import Loss
from vidleak_jax.options import Options, option
from vidleak_jax.specs import FederatedSpec
from vidleak_jax.types import Array, Params, PRNGKey


@dataclass(frozen=True)
class FedAvg(Options):
  """Takes steps of SGD on its whole batch; sends start minus end weights.

  The sign is that of a gradient, so that both kinds of update point uphill.

  >>> FedAvg(local_steps=5, local_learning_rate=1e-4).local_steps
  5
  """
  per: str = option('clip', 'what one update covers',
                    choices=('clip', 'frame', 'batch'))
  labels_known: bool = option(False, 'whether the labels are sent along')
  local_steps: int = option(1, 'of SGD', low=1)
  local_learning_rate: float = option(0.01, 'of SGD', above=0)

  def update(self, loss: Loss, params: Params, clips: Array, labels: Array,
             key: PRNGKey | None = None) -> Params:
    """Returns the weights before training minus those after it."""
    local = params
    for step in range(self.local_steps):
      step_key = None if key is None else jax.random.fold_in(key, step)
      slope = jax.grad(loss)(local, clips, labels, step_key)
      local = jax.tree.map(
          lambda p, g: p - self.local_learning_rate * g, local, slope)
    return jax.tree.map(jnp.subtract, params, local)

  def to_spec(self) -> FederatedSpec:
    """Returns the public facts about it."""
    return FederatedSpec(
        message=self.per, labels_known=self.labels_known, algorithm='fedavg',
        local_steps=self.local_steps,
        local_learning_rate=self.local_learning_rate)
