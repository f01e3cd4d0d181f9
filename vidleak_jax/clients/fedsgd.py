"""FedSGD: a client sends its gradient (McMahan et al., 1602.05629)."""

from dataclasses import dataclass

import jax

from vidleak_jax.clients.base import Loss
from vidleak_jax.options import Options, option
from vidleak_jax.specs import FederatedSpec
from vidleak_jax.types import Array, Params, PRNGKey


@dataclass(frozen=True)
class FedSGD(Options):
  """Sends dL/dparams of its batch.

  >>> FedSGD(per='batch').per
  'batch'
  """
  per: str = option('clip', 'what one update covers',
                    choices=('clip', 'frame', 'batch'))
  labels_known: bool = option(False, 'whether the labels are sent along')

  def update(self, loss: Loss, params: Params, clips: Array, labels: Array,
             key: PRNGKey | None = None) -> Params:
    """Returns the gradient of the batch's mean loss."""
    return jax.grad(loss)(params, clips, labels, key)

  def to_spec(self) -> FederatedSpec:
    """Returns the public facts about it."""
    return FederatedSpec(message=self.per, labels_known=self.labels_known)
