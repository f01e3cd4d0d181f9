"""From private clips to a leak: an honest client behind its defence."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vidleak_jax import options
from vidleak_jax.clients import defenses, dp_sgd
from vidleak_jax.clients.base import Client, Loss, split
from vidleak_jax.clients.fedavg import FedAvg
from vidleak_jax.clients.fedsgd import FedSGD
from vidleak_jax.specs import DefenseSpec, FederatedSpec, LocalTraining
from vidleak_jax.types import (
    Array,
    Batch,
    Leak,
    Params,
    PRNGKey,
    PublicInfo,
    Round,
    UserError,
    Victim,
)

if TYPE_CHECKING:  # shapes for readers; the engine needs no such library
  from jaxtyping import Float, Int

_DP_SGD = 10**6  # the part of a noise key that is its own
_KEPT = 8  # clients' programs, for the next audit of the same shape


def client_from(spec: FederatedSpec) -> Client:
  """Returns the client that public facts describe.

  Raises:
    UserError: where what an update covers is still to be chosen.
  """
  if spec.message == 'auto':
    raise UserError('federated.message is auto; it must be clip, frame or '
                    'batch by now.')
  if spec.algorithm == 'fedsgd':
    return FedSGD(per=spec.message, labels_known=spec.labels_known)
  training = {field.name: getattr(spec, field.name)
              for field in dataclasses.fields(LocalTraining)}
  return FedAvg(
      per=spec.message, labels_known=spec.labels_known, **training)


def observe(
    victim: Victim, params: Params, clips: Float[Array, 'N T H W C'],
    labels: Int[Array, ' N'], *,
    client: Client | None = None,
    defense: optax.GradientTransformation | DefenseSpec | None = None,
    key: PRNGKey | None = None, num_rounds: int = 1,
    server_learning_rate: float = 1.0,
) -> Leak:
  """Returns what the server sees of an honest client's training.

  Args:
    victim: the client's network.
    params: the weights that the server sent.
    clips: [N, T, H, W, C] in [0, 1], T, H, W, C as the victim's.
    labels: [N] whole numbers below the victim's number of classes.
    client: `FedSGD()` if None.
    defense: any optax transform, or chain of some: applied to each update in
      turn. The attacker is told a `DefenseSpec`, and nothing of a transform.
    key: of a `DefenseSpec`'s noise and of the order in which a client goes
      through its minibatches; consumed. Neither is told to the attacker.
    num_rounds: in which the client takes part with these clips.
    server_learning_rate: between rounds, see `in_rounds`.

  Raises:
    UserError: for clips or labels that do not fit the victim, or for noise or
      minibatches without a key.

  >>> import jax, vidleak_jax as vl
  >>> victim = vl.victims.c3d((4, 16, 16, 3), 7, preset='tiny')
  >>> clips = jax.random.uniform(jax.random.key(0), (2, 4, 16, 16, 3))
  >>> leak = vl.observe(victim, victim.init(jax.random.key(1)), clips, [5, 2])
  >>> leak.num_updates
  2
  """
  chosen: Client = client or FedSGD()
  batch = _checked(victim, clips, labels)
  updates = split(batch, chosen.per)
  spec = DefenseSpec() if defense is None else defense
  order_key = None
  if _is_shuffled(chosen, updates.clips.shape[1]):
    if key is None:
      raise UserError('The client goes through its minibatches in a random '
                      'order: give `observe` a key for it.')
    order_key = jax.random.fold_in(key, 1)
  public = PublicInfo(
      clip_shape=updates.clips.shape[2:], batch_size=updates.clips.shape[1],
      num_frames=batch.clips.shape[1], victim=victim.spec,
      federated=chosen.to_spec().replace(
          num_rounds=num_rounds, server_learning_rate=server_learning_rate),
      frozen=victim.known,
      defense=spec if isinstance(spec, DefenseSpec) else None)
  if isinstance(spec, DefenseSpec) and key is None and _draws(spec):
    raise UserError(
        'The defence is random: give `observe` a key for its noise.')

  def compute(params, clips, labels, key, index, **order):
    del index
    return chosen.update(victim.loss, params, clips, labels, key, **order)

  def send(params, number):
    own_order = _of_round(order_key, number)
    if isinstance(spec, DefenseSpec):
      return simulate(victim.loss, chosen, params, updates, spec,
                      noise_key=_of_round(key, number), order_key=own_order)
    return _send(compute, chosen, params, updates, spec, None, own_order)
  first, *later = in_rounds(send, params, public.federated)
  return Leak(*first, public, updates.labels if chosen.labels_known else None,
              later_rounds=tuple(later))


def in_rounds(
    send: Callable[[Params, int], Params], params: Params, spec: FederatedSpec
) -> list[Round]:
  """Returns what a client sends in some rounds, with the weights of each.

  Between rounds the server subtracts the mean update times its rate: the same
  clients are the only ones, as far as the weights show.

  Args:
    send: from weights and the number of a round to updates, leaves [M, ...].
    params: the weights of the first round.
    spec: how many rounds, and the server's rate.
  """
  rounds = []
  for number in range(spec.num_rounds):
    rounds.append(Round(params, send(params, number)))
    params = jax.tree.map(
        lambda w, u: w - spec.server_learning_rate * u.mean(0), *rounds[-1])
  return rounds


def _of_round(key: PRNGKey | None, number: int) -> PRNGKey | None:
  return key if key is None or not number else jax.random.fold_in(
      key, 1000 + number)


def simulate(
    loss: Loss, client: Client, params: Params, updates: Batch,
    defense: DefenseSpec, *, noise_key: PRNGKey | None = None,
    dropout_key: PRNGKey | None = None, order_key: PRNGKey | None = None,
) -> Params:
  """Returns all updates of a client behind its defence, leaves [M, ...].

  Runs that differ in strengths of defences alone share a program.

  Args:
    loss: the victim's.
    client: computes each update.
    params: the weights that the server sent.
    updates: clips [M, B, T, H, W, C], labels [M, B].
    defense: applied to each update in order.
    noise_key: of the defence; consumed.
    dropout_key: switches dropout on in the client; consumed.
    order_key: of the order of minibatches, where there are several; consumed.

  Raises:
    UserError: for minibatches without a key.
  """
  if not _is_shuffled(client, updates.clips.shape[1]):
    order_key = None
  elif order_key is None:
    raise UserError('The order of minibatches needs a key: order_key.')
  structure, strengths = options.split(defense)
  key = jax.random.key(0) if noise_key is None else noise_key
  return _program(loss, client, structure)(
      params, updates, key, strengths, dropout_key, order_key)


def _draws(spec: DefenseSpec) -> bool:
  """Whether a defence has random numbers."""
  return bool(defenses.noise_std_of(spec, 1) or spec.svt.fraction
              or spec.qsgd_levels)


@functools.lru_cache(_KEPT)
def _program(loss, client, structure):
  def send(params, updates, noise_key, strengths, dropout_key, order_key):
    spec = options.bind(structure, strengths)
    batch_key = jax.random.fold_in(noise_key, _DP_SGD)

    def compute(params, clips, labels, key, index, **order):
      return dp_sgd.update_of(
          client, spec.dp_sgd, loss, params, clips, labels,
          noise_key=jax.random.fold_in(batch_key, index), dropout_key=key,
          **order)
    return _send(compute, client, params, updates,
                 defenses.from_spec(spec, noise_key), dropout_key, order_key)
  return jax.jit(send)


def _is_shuffled(client, batch_size) -> bool:
  return isinstance(client, FedAvg) and client.is_shuffled(batch_size)


def _send(compute, client, params, updates, defense, dropout_key, order_key):
  """Computes each update and defends it, the defence's state carried on."""

  def step(state, message):
    index, clips, labels = message
    key = None
    if dropout_key is not None:
      key = jax.random.fold_in(dropout_key, index)
    more = {}
    if _is_shuffled(client, len(clips)):
      more['order'] = client.draw_order(
          jax.random.fold_in(order_key, index), len(clips))
    update = compute(params, clips, labels, key, index, **more)
    update, state = defense.update(update, state, params)
    return state, update

  index = jnp.arange(updates.clips.shape[0])
  _, sent = jax.jit(lambda *xs: jax.lax.scan(
      step, defense.init(params), xs))(index, *updates)
  return sent


def _checked(victim, clips, labels) -> Batch:
  clips, labels = np.asarray(clips, np.float32), np.asarray(labels)
  if clips.ndim != 5 or clips.shape[1:] != tuple(victim.clip_shape):
    raise UserError(f'clips have shape {clips.shape}; they must be [clips, '
                    f'{", ".join(map(str, victim.clip_shape))}], as the '
                    'victim takes them.')
  if not (np.isfinite(clips).all() and 0 <= clips.min() and clips.max() <= 1):
    raise UserError('clips must lie in [0, 1]; divide 8-bit pixels by 255.')
  if labels.shape[:1] != clips.shape[:1] or labels.dtype.kind not in 'iu':
    raise UserError(f'labels are {labels.dtype} {labels.shape}; they must be '
                    f'whole numbers, one for each of {len(clips)} clips.')
  if labels.min() < 0 or labels.max() >= victim.num_classes:
    raise UserError(f'labels lie in [{labels.min()}, {labels.max()}]; the '
                    f'victim has classes 0 to {victim.num_classes - 1}.')
  return Batch(clips, labels)
