"""What an honest client computes and sends.

A leak is a stack of messages, each about a batch of its own. What one message
covers is a choice: one frame, one clip, or all clips together.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from vidleak_jax.types import Array, Batch, Leak, Params, PRNGKey, pick

Client = Callable[..., Params]  # (params, clips, labels, key=None) -> update


def _per_frame(clips):
  return clips.reshape(-1, 1, 1, *clips.shape[2:])


# name -> clips [N, T, H, W, C] into messages [M, B, T', H, W, C]
MESSAGES = {
    'frame': _per_frame,
    'clip': lambda clips: clips[:, None],
    'batch': lambda clips: clips[None],
}


def split(batch: Batch, message: str) -> Batch:
  """Cuts a client's clips into messages.

  Args:
    batch: clips [N, T, H, W, C], labels [N], or [N, T] where frames have their
      own.
    message: 'frame', 'clip' or 'batch'.

  Returns:
    clips [M, B, T', H, W, C] and labels [M, B].
  """
  clips = pick(MESSAGES, message, 'federated.message')(jnp.asarray(batch.clips))
  labels = jnp.asarray(batch.labels)
  per_clip = clips.shape[0] * clips.shape[1] // labels.size
  labels = jnp.repeat(labels.reshape(-1), per_clip)
  return Batch(clips, labels.reshape(clips.shape[:2]).astype(jnp.int32))


def join(clips: Array, num_frames: int) -> Array:
  """The inverse of `split`: messages back into clips [N, T, H, W, C]."""
  return clips.reshape(-1, num_frames, *clips.shape[3:])


def client(
    loss: Callable[..., Array], *, algorithm: str = 'fedsgd',
    local_steps: int = 1, local_learning_rate: float = 1e-2,
) -> Client:
  """How one message is computed from one batch.

  FedSGD sends dL/dparams. FedAvg takes `local_steps` SGD steps on the whole
  batch and sends params before - params after, so that both point uphill.

  Returns:
    `(params, clips, labels, key=None) -> update`; a key switches the victim's
    dropout on.
  """

  def fedsgd(params, clips, labels, key=None):
    return jax.grad(loss)(params, clips, labels, key)

  def fedavg(params, clips, labels, key=None):
    local = params
    for step in range(local_steps):
      own = None if key is None else jax.random.fold_in(key, step)
      slope = jax.grad(loss)(local, clips, labels, own)
      local = jax.tree.map(
          lambda p, g: p - local_learning_rate * g, local, slope)
    return jax.tree.map(jnp.subtract, params, local)

  return pick({'fedsgd': fedsgd, 'fedavg': fedavg}, algorithm,
              'federated.algorithm')


def client_of(loss: Callable[..., Array], federation: dict) -> Client:
  """The `client` that `federated` of a config, or of leak.json, describes."""
  options = ('algorithm', 'local_steps', 'local_learning_rate')
  return client(loss, **{name: federation[name] for name in options})


def send(
    client: Client, params: Params, messages: Batch,
    defense: optax.GradientTransformation, *,
    dropout_key: PRNGKey | None = None, labels_known: bool = False,
) -> Leak:
  """Computes every message, defends it, and returns what the server sees.

  Args:
    client: from `client`.
    params: the weights the server sent.
    messages: clips [M, B, T, H, W, C], labels [M, B].
    defense: applied to each message in order, its state carried on.
    dropout_key: switches dropout on in the client; consumed.
    labels_known: whether the labels are sent along.
  """

  def step(state, message):
    index, clips, labels = message
    key = None
    if dropout_key is not None:
      key = jax.random.fold_in(dropout_key, index)
    update = client(params, clips, labels, key)
    update, state = defense.update(update, state, params)
    return state, update

  index = jnp.arange(messages.clips.shape[0])
  _, updates = jax.jit(lambda *xs: jax.lax.scan(
      step, defense.init(params), xs))(index, *messages)
  return Leak(params, updates, messages.labels if labels_known else None)
