"""The one measure that ranks attacks: how far a recovery is from its leak.

  residual = |D(u(x)) - u| / |u|

u is the update that was observed, u(x) the one that the client would compute
for the recovery x, and D what is known and not random of the client's defence:
clipping, pruning, rounding and the like, and no noise. Norms run over all
entries. It is 0 for a perfect answer, about 1 for an unrelated clip, and needs
no truth.
"""

from typing import Any

import jax
import numpy as np
import optax

from vidleak_jax import options
from vidleak_jax.clients import client_from, defenses, dp_sgd
from vidleak_jax.runtime import programs as programs_lib
from vidleak_jax.specs import DefenseSpec
from vidleak_jax.types import Leak, UserError, Victim


def gradient_residual(
    victim: Victim, leak: Leak, clips: np.ndarray, labels: np.ndarray, *,
    programs: programs_lib.ProgramCache | None = None,
) -> np.ndarray:
  """Returns the relative residual of each update's answer, [M] float32.

  Args:
    victim: the client's network.
    leak: M updates.
    clips: [M, B, T, H, W, C] in [0, 1].
    labels: [M, B].
    programs: keeps the compiled measure; None: the runtime's.

  Raises:
    UserError: for clips or labels of another shape than the leak's.
  """
  shape = leak.num_updates, leak.public.batch_size
  if np.shape(clips) != (*shape, *leak.public.clip_shape) or (
      np.shape(labels) != shape):
    raise UserError(f'clips {np.shape(clips)} and labels {np.shape(labels)} do '
                    f'not fit a leak of updates and clips {shape}.')
  defense = leak.public.defense or DefenseSpec()
  structure, strengths = options.split(defense.replace(noise_std=0.0))
  cache = programs_lib.default() if programs is None else programs
  key = ('residual', victim.key, leak.public.federated, structure)
  measure = cache.get(key, lambda: _program(victim, leak, structure))
  return np.stack([np.asarray(measure(
      leak.params, jax.tree.map(lambda u, i=i: u[i], leak.update), clips[i],
      labels[i], strengths), np.float32) for i in range(leak.num_updates)])


def noise_floor(leak: Leak) -> np.ndarray:
  """Returns the residual that the defence's own errors cause at the truth, [M].

  Noise of standard deviation s leaves s sqrt(n) / |u| over n entries, rounding
  to a grid of step d about d sqrt(n / 6) / |u| where it was rounded on both
  sides, at random or not. It is 0 without a defence, or an unknown one. SVT
  sends a random choice of the entries, so its floor is that of nothing sent.

  Args:
    leak: M updates.
  """
  defense = leak.public.defense or DefenseSpec()
  noise = defenses.noise_std_of(defense, leak.public.batch_size)
  if defense.svt.fraction:
    return np.ones(leak.num_updates)
  power = np.zeros(leak.num_updates)
  size = np.zeros(leak.num_updates)
  for leaf in jax.tree.leaves(leak.update):
    rows = np.abs(np.asarray(leaf, np.float64)).reshape(len(leaf), -1)
    size += np.sum(rows ** 2, 1)
    power += rows.shape[1] * noise ** 2
    if defense.quantize_bits:
      step = rows.max(1) / max(1.0, 2.0 ** (defense.quantize_bits - 1) - 1)
      power += rows.shape[1] * step ** 2 / 6
    if defense.qsgd_levels:  # the smallest entry is a step, in most leaves
      step = np.where(rows > 0, rows, np.inf).min(1)
      power += rows.shape[1] * np.where(np.isfinite(step), step, 0) ** 2 / 6
  return np.sqrt(power / np.maximum(size, 1e-30))


def _program(victim: Victim, leak: Leak, structure: DefenseSpec) -> Any:
  client = client_from(leak.public.federated)

  def measure(params, observed, clips, labels, strengths):
    spec, key = options.bind(structure, strengths), jax.random.key(0)
    filters = defenses.from_spec(spec, key, random=False)
    update = dp_sgd.update_of(
        client, options.bind(spec.dp_sgd, {'noise_multiplier': 0.0}),
        victim.loss, params, clips, labels, noise_key=key)
    update, _ = filters.update(update, filters.init(params), params)
    size = optax.tree.norm(observed)
    missed = optax.tree.norm(jax.tree.map(jax.numpy.subtract, update, observed))
    return missed / jax.numpy.maximum(size, 1e-30)
  return jax.jit(measure)
