"""A federation in plain JAX: four clients with loops of their own, one server.

What the server sees of one client is a leak, rounds included.
"""

import jax
import numpy as np
import optax
import pytest

import vidleak_jax as vl
from tests.helpers import dense_victim
from vidleak_jax.attacks import gradient_residual
from vidleak_jax.types import Round

NUM_CLIENTS, WATCHED, RATE, MOMENTUM = 4, 2, 0.05, 0.8
LABELS = np.array([[1, 4], [0, 2], [3, 1], [2, 0]])


@pytest.fixture(scope='module')
def federation():
  """(victim, clips [clients, 2, T, H, W, C], weights sent, weights received).
  """
  victim = dense_victim()
  clips = np.random.default_rng(0).uniform(
      size=(NUM_CLIENTS, 2, 2, 4, 4, 3)).astype(np.float32)
  gradient = jax.jit(jax.grad(victim.loss))

  def train(params, client, order):
    optimizer = optax.sgd(RATE, MOMENTUM)
    state = optimizer.init(params)
    for row in order:  # minibatches of one clip
      change, state = optimizer.update(gradient(
          params, clips[client, [row]], LABELS[client, [row]]), state)
      params = optax.apply_updates(params, change)
    return params

  server, sent, received = victim.init(None), [], []
  rng = np.random.default_rng(1)
  for _ in range(2):
    answers = [train(server, client, rng.permutation(2))
               for client in range(NUM_CLIENTS)]
    sent.append(server)
    received.append(answers[WATCHED])
    server = jax.tree.map(lambda *w: np.mean(w, 0), *answers)
  return victim, clips, sent, received


def leak_of(federation, num_rounds):
  victim, _clips, sent, received = federation
  first, *later = [Round(a, jax.tree.map(np.subtract, a, b))
                   for a, b in zip(sent[:num_rounds], received)]
  client = vl.FedAvg(per='batch', local_epochs=1, local_batch_size=1,
                     optimizer='momentum', momentum=MOMENTUM,
                     local_learning_rate=RATE)
  return vl.Leak(*first, vl.PublicInfo(
      clip_shape=victim.clip_shape, batch_size=2, defense=vl.DefenseSpec(),
      federated=client.to_spec().replace(num_rounds=num_rounds)),
                 later_rounds=tuple(later))


@pytest.mark.parametrize('num_rounds', [1, 2])
def test_what_the_server_saw_is_what_a_simulation_of_the_truth_gives(
    num_rounds, federation):
  victim, clips, *_ = federation
  leak = leak_of(federation, num_rounds)
  found = gradient_residual(
      victim, leak, clips[[WATCHED]], LABELS[[WATCHED]])
  assert found[0] < 1e-4
  other = gradient_residual(victim, leak, clips[[0]], LABELS[[WATCHED]])
  assert other[0] > 0.05


@pytest.mark.slow
def test_one_client_is_attacked(federation):
  victim, clips, *_ = federation
  leak = leak_of(federation, 2)
  found = vl.attack(victim, leak, vl.attacks.ig(num_steps=200, polish_steps=5),
                    key=jax.random.key(0))
  assert sorted(found.labels) == sorted(LABELS[WATCHED])
  scores = vl.evaluate(found, clips[WATCHED], unrelated=clips[0])
  assert (scores.psnr > scores.psnr_unrelated + 10).all()
