"""What a client sends: messages, FedSGD, FedAvg, defences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vidleak_jax.clients import defenses, federated
from vidleak_jax.types import UserError

KEY = jax.random.key(0)


@pytest.mark.parametrize('message, shape', [
    ('frame', (12, 1, 1, 16, 16, 3)),
    ('clip', (3, 1, 4, 16, 16, 3)),
    ('batch', (1, 3, 4, 16, 16, 3)),
])
def test_split_and_join(message, shape, batch):
  messages = federated.split(batch, message)
  assert messages.clips.shape == shape
  assert messages.labels.shape == shape[:2]
  joined = federated.join(messages.clips, num_frames=4)
  np.testing.assert_array_equal(joined, batch.clips)
  per_label = messages.labels.size // 3
  np.testing.assert_array_equal(
      messages.labels.reshape(-1), np.repeat(batch.labels, per_label))


def test_unknown_message(batch):
  with pytest.raises(UserError, match='batch, clip, frame'):
    federated.split(batch, 'video')


def test_fedsgd_is_the_gradient(victim, batch, leak):
  slope = jax.grad(victim.loss)(
      leak.params, batch.clips[1:2], batch.labels[1:2])
  for sent, own in zip(jax.tree.leaves(leak.update), jax.tree.leaves(slope)):
    np.testing.assert_allclose(sent[1], own, atol=1e-6)


def test_one_small_fedavg_step_is_fedsgd_times_the_rate(victim, batch, leak):
  client = federated.client(victim.loss, algorithm='fedavg', local_steps=1,
                            local_learning_rate=0.1)
  update = client(leak.params, batch.clips[:1], batch.labels[:1])
  for sent, own in zip(jax.tree.leaves(update), jax.tree.leaves(leak.update)):
    np.testing.assert_allclose(sent, 0.1 * own[0], atol=1e-6)


def test_labels_travel_only_when_known(victim, batch):
  args = (federated.client(victim.loss), victim.init(KEY),
          federated.split(batch, 'clip'), optax.identity())
  assert federated.send(*args).labels is None
  known = federated.send(*args, labels_known=True)
  np.testing.assert_array_equal(known.labels[:, 0], batch.labels)


DEFENSES = {
    'clip_norm': 0.5,
    'noise_std': 0.01,
    'prune_fraction': 0.7,
    'quantize_bits': 4,
}


@pytest.mark.parametrize('name', [*DEFENSES, 'all'])
def test_a_defence_keeps_the_tree_and_changes_it(name, leak):
  chosen = DEFENSES if name == 'all' else {name: DEFENSES[name]}
  defense = defenses.build(KEY, **chosen)
  update = jax.tree.map(lambda leaf: leaf[0], leak.update)
  state = defense.init(leak.params)
  step = jax.jit(defense.update)
  once, state = step(update, state)
  twice, _ = step(update, state)
  assert step._cache_size() == 1
  for a, b in zip(jax.tree.leaves(update), jax.tree.leaves(once)):
    assert a.shape == b.shape and a.dtype == b.dtype
    assert jnp.isfinite(b).all()
  gap = optax.tree.norm(jax.tree.map(jnp.subtract, once, update))
  assert gap > 0
  again = optax.tree.norm(jax.tree.map(jnp.subtract, once, twice))
  assert (again > 0) == ('noise_std' in chosen)


@pytest.mark.parametrize('name', DEFENSES)
def test_strengths_are_arguments_of_a_program(name, leak):
  update = jax.tree.map(lambda leaf: leaf[0], leak.update)

  def defended(strength):
    defense = defenses.build(KEY, **{name: strength})
    return defense.update(update, defense.init(leak.params))[0]
  jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-7),
      jax.jit(defended)(DEFENSES[name]), defended(DEFENSES[name]))


def test_without_strength_nothing_changes(leak):
  update, _ = defenses.build(KEY).update(leak.update, optax.EmptyState())
  assert update is leak.update


def test_clipping_noise_pruning_and_levels_are_what_they_say(leak):
  update = jax.tree.map(lambda leaf: leaf[0], leak.update)

  def after(**chosen):
    defense = defenses.build(KEY, **chosen)
    return defense.update(update, defense.init(update))[0]

  norm = 0.5 * float(optax.tree.norm(update))
  np.testing.assert_allclose(
      optax.tree.norm(after(clip_norm=norm)), norm, rtol=1e-5)
  kernel = after(prune_fraction=0.7)['head']['kernel']
  assert 0.68 < float(jnp.mean(kernel == 0)) < 0.72
  kernel = after(quantize_bits=3)['head']['kernel']
  assert len(np.unique(np.round(kernel / np.abs(kernel).max(), 4))) <= 7
  noise = after(noise_std=0.02)['head']['kernel'] - update['head']['kernel']
  np.testing.assert_allclose(jnp.std(noise), 0.02, rtol=0.05)
