"""What a client is: how one update comes from one batch, and what it covers.

A leak is a stack of updates, each about a batch of its own. What one update
covers is a choice: one frame, one clip, or all clips together.
"""

from collections.abc import Callable, Hashable
from typing import Protocol

import jax.numpy as jnp

from vidleak_jax.specs import FederatedSpec
from vidleak_jax.types import Array, Batch, Params, PRNGKey, pick

Loss = Callable[..., Array]  # (params, clips, labels, key=None) -> []


class Client(Hashable, Protocol):
  """Computes one update; a frozen value that can be hashed."""

  @property
  def per(self) -> str:
    """What one update covers: a name of `MESSAGES`."""

  @property
  def labels_known(self) -> bool:
    """Whether the labels are sent along."""

  def update(self, loss: Loss, params: Params, clips: Array, labels: Array,
             key: PRNGKey | None = None) -> Params:
    """Returns what is sent for a batch, before any defence.

    Args:
      loss: the victim's.
      params: the weights that the server sent.
      clips: [B, T, H, W, C].
      labels: [B] int32.
      key: switches the victim's dropout on; consumed.
    """

  def to_spec(self) -> FederatedSpec:
    """Returns the public facts about it, for `PublicInfo`."""


def _per_frame(clips):
  return clips.reshape(-1, 1, 1, *clips.shape[2:])


# name -> clips [N, T, H, W, C] into updates [M, B, T', H, W, C]
MESSAGES = {
    'frame': _per_frame,
    'clip': lambda clips: clips[:, None],
    'batch': lambda clips: clips[None],
}


def split(batch: Batch, per: str) -> Batch:
  """Returns a client's clips cut into updates.

  Args:
    batch: clips [N, T, H, W, C], labels [N], or [N, T] where frames have their
      own.
    per: a name of `MESSAGES`.

  Returns:
    clips [M, B, T', H, W, C] and labels [M, B].
  """
  clips = pick(MESSAGES, per, 'federated.message')(jnp.asarray(batch.clips))
  labels = jnp.asarray(batch.labels)
  per_clip = clips.shape[0] * clips.shape[1] // labels.size
  labels = jnp.repeat(labels.reshape(-1), per_clip)
  return Batch(clips, labels.reshape(clips.shape[:2]).astype(jnp.int32))


def join(clips: Array, num_frames: int) -> Array:
  """Returns clips [N, T, H, W, C] from updates', the inverse of `split`."""
  return clips.reshape(-1, num_frames, *clips.shape[3:])
