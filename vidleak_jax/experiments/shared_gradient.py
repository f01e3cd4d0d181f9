"""What the clients of a training step share: a gradient, behind a defence."""

import jax
import optax
from jax import lax

from vidleak_jax.clients import defenses, dp_sgd
from vidleak_jax.clients.base import Loss
from vidleak_jax.specs import DefenseSpec
from vidleak_jax.types import Array, Batch, Params, PRNGKey


def shared_gradient(
    loss: Loss, params: Params, batch: Batch, defense: DefenseSpec, *,
    noise_key: PRNGKey, dropout_key: PRNGKey, axis: str,
) -> tuple[Array, Params]:
  """Returns the loss of a step, and the gradient that its server receives.

  The batch of all devices is one client's: its mean gradient passes the defence
  as one update would, with new noise in every step. DP-SGD clips the gradient
  of each clip where it is computed.

  Args:
    loss: `(params, clips, labels, key) -> []`, the mean over a batch.
    params: the weights that learn.
    batch: this device's share, of equal size on all devices.
    defense: Python numbers.
    noise_key: of the defence, the same on all devices; consumed.
    dropout_key: consumed.
    axis: of the devices.

  Raises:
    UserError: a strength is out of range.
  """
  private, clips, labels = defense.dp_sgd, *batch
  value, gradient = jax.value_and_grad(loss)(params, clips, labels, dropout_key)
  dp_key, filter_key = jax.random.split(noise_key)
  filters = defenses.from_spec(defense, filter_key)
  if private.clip_norm:
    gradient = dp_sgd.dp_sgd_gradient(
        loss, params, clips, labels, dp_key, clip_norm=private.clip_norm,
        noise_multiplier=0.0, dropout_key=dropout_key)
    count = len(labels) * lax.psum(1, axis)
    filters = optax.chain(defenses.gaussian_noise(
        private.clip_norm * private.noise_multiplier / count, dp_key), filters)
  gradient, _ = filters.update(
      lax.pmean(gradient, axis), filters.init(params), params)
  return lax.pmean(value, axis), gradient
