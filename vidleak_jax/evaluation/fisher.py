"""Which layers of an update tell most about the clips: Fisher information."""

from collections import defaultdict

import jax
import jax.numpy as jnp
import numpy as np

from vidleak_jax import trees
from vidleak_jax.types import Array, Params, PRNGKey, Row, Victim


def layer_shares(
    victim: Victim, params: Params, clips: Array, labels: Array, key: PRNGKey,
    *, num_probes: int = 4,
) -> list[Row]:
  """Returns of each layer its share of what the gradient tells, largest first.

  Behind equal noise on every entry the Fisher information that a layer's
  gradient g_l(x) has about the pixels is `|dg_l/dx|_F^2 / std^2`. The Frobenius
  norm is the mean of `|dg_l/dx v|^2` over random signs v (Hutchinson), one
  forward derivative of the gradient a probe, for all layers at once. The shares
  do not depend on std.

  Args:
    victim: the network.
    params: the weights.
    clips: [B, T, H, W, C] of one update, or what was recovered of them.
    labels: [B] int32.
    key: of the probes; consumed.
    num_probes: to average over.

  Returns:
    Rows of `layer`, `share` in [0, 1], and `entries`, numbers in its update.
  """
  gradient = jax.grad(victim.loss)

  @jax.jit
  def sizes(probe):
    _, moved = jax.jvp(lambda clips: gradient(params, clips, labels),
                       (clips,), (probe,))
    return jax.tree.map(lambda leaf: jnp.sum(leaf ** 2), moved)

  clips = jnp.asarray(clips, jnp.float32)
  told: dict[str, float] = defaultdict(float)
  for probe_key in jax.random.split(key, num_probes):
    probe = jax.random.rademacher(probe_key, clips.shape, jnp.float32)
    for name, size in trees.flatten(sizes(probe)).items():
      told[_layer_of(name)] += float(size)
  entries: dict[str, int] = defaultdict(int)
  for name, leaf in trees.flatten(params).items():
    entries[_layer_of(name)] += int(np.size(leaf))
  total = sum(told.values()) or 1.0
  rows = [{'layer': name, 'share': told[name] / total, 'entries': count}
          for name, count in entries.items()]
  return sorted(rows, key=lambda row: -row['share'])


def _layer_of(name: str) -> str:
  """The path without its last part, such as `kernel`."""
  return name.rpartition('/')[0] or name
