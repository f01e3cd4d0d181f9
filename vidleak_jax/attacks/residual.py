"""The one measure that ranks attacks: how far a recovery is from its leak.

  residual = |D(u(x)) - u| / |u|

u is the update that was observed, u(x) the one that the client would compute
for the recovery x, and D what is known and not random of the client's defence:
clipping, pruning, rounding and the like, and no noise. Norms run over all
entries. It is 0 for a perfect answer, about 1 for an unrelated clip, and needs
no truth.

Local training is simulated step by step. Where it goes through minibatches in
an order that is not known, u(x) is that of the best order if there are few, and
of the mean gradients if there are many: see `local_training.order_note`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vidleak_jax import options, trees
from vidleak_jax.attacks import local_training
from vidleak_jax.clients import client_from, defenses, dp_sgd
from vidleak_jax.runtime import programs as programs_lib
from vidleak_jax.specs import DefenseSpec
from vidleak_jax.types import Leak, UserError, Victim

CERTIFIED = 0.01  # beyond the defence's: such an answer explains its update
_DRAWN = 3  # orders whose spread is measured


def gradient_residual(
    victim: Victim, leak: Leak, clips: np.ndarray, labels: np.ndarray, *,
    programs: programs_lib.ProgramCache | None = None,
) -> np.ndarray:
  """Returns the relative residual of each update's answer, [M] float32.

  Of several rounds it is the root of their mean square.

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
  measure = _program(victim, leak, structure, programs)
  squares = [[np.asarray(measure(
      one.params, trees.take(one.update, i), clips[i], labels[i],
      strengths), np.float32).min() ** 2 for i in range(leak.num_updates)]
             for one in leak.rounds()]
  return np.sqrt(np.mean(squares, 0, dtype=np.float32))


def best_orders(
    victim: Victim, leak: Leak, clips: np.ndarray, labels: np.ndarray
) -> np.ndarray | None:
  """Returns the order of minibatches that fits each update best.

  Args:
    victim: the client's network.
    leak: M updates.
    clips: [M, B, T, H, W, C] in [0, 1], an answer.
    labels: [M, B].

  Returns:
    [M, rounds, epochs, B] int32; None where there is no order, or too many.
  """
  tried = local_training.orders(leak.public.federated, leak.public.batch_size)
  if tried is None:
    return None
  measure = _program(victim, leak, DefenseSpec())
  return np.stack([[tried[np.asarray(measure(
      one.params, trees.take(one.update, i), clips[i], labels[i], {})
  ).argmin()] for one in leak.rounds()] for i in range(leak.num_updates)])


def order_floor(
    victim: Victim, leak: Leak, clips: np.ndarray, labels: np.ndarray
) -> np.ndarray:
  """Returns about which residual the unknown order leaves at the truth, [M].

  It is how far updates of some random orders lie from that of mean gradients,
  at the clips of an answer; 0 where the order makes no difference, or where
  all orders are tried.

  Args:
    victim: the client's network.
    leak: M updates.
    clips: [M, B, T, H, W, C] in [0, 1], an answer.
    labels: [M, B].
  """
  federated, count = leak.public.federated, leak.public.batch_size
  if not local_training.is_order_open(federated, count):
    return np.zeros(leak.num_updates)
  gaps = programs_lib.default().get(
      ('order_floor', victim.key, federated, count),
      lambda: _build_gaps(victim, federated, count))
  return np.array([float(gaps(leak.params, trees.take(leak.update, i),
                              clips[i], labels[i]).mean())
                   for i in range(leak.num_updates)])


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


def _program(
    victim: Victim, leak: Leak, structure: DefenseSpec,
    programs: programs_lib.ProgramCache | None = None,
) -> Any:
  """The measure, kept for leaks of the same shape."""
  federated, count = leak.public.federated, leak.public.batch_size
  cache = programs_lib.default() if programs is None else programs
  return cache.get(('residual', victim.key, federated, count, structure),
                   lambda: _build(victim, federated, count, structure))


def _build(victim, federated, count, structure):
  """(params, observed, clips, labels, strengths) -> [orders] residuals."""
  client = client_from(federated)
  tried = local_training.orders(federated, count)

  def measure(params, observed, clips, labels, strengths):
    spec, key = options.bind(structure, strengths), jax.random.key(0)
    filters = defenses.from_spec(spec, key, random=False)
    size = jnp.maximum(optax.tree.norm(observed), 1e-30)

    def missed(**order):
      update = dp_sgd.update_of(
          client, options.bind(spec.dp_sgd, {'noise_multiplier': 0.0}),
          victim.loss, params, clips, labels, noise_key=key, **order)
      update, _ = filters.update(update, filters.init(params), params)
      return optax.tree.norm(jax.tree.map(jnp.subtract, update, observed))
    if tried is None:
      return missed()[None] / size
    return jax.lax.map(lambda order: missed(order=order), tried) / size
  return jax.jit(measure)


def _build_gaps(victim, federated, count):
  """(params, observed, clips, labels) -> [_DRAWN] distances of orders."""
  client = client_from(federated)

  def gaps(params, observed, clips, labels):
    mean = client.update(victim.loss, params, clips, labels)

    def gap(key):
      one = client.update(victim.loss, params, clips, labels,
                          order=client.draw_order(key, count))
      return optax.tree.norm(jax.tree.map(jnp.subtract, one, mean))
    return jax.lax.map(gap, jax.random.split(jax.random.key(0), _DRAWN)
                       ) / optax.tree.norm(observed)
  return jax.jit(gaps)
