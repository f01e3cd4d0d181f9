"""What a client sends: updates of clips, FedSGD, FedAvg, defences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vidleak_jax.clients import (
    FedAvg,
    FedSGD,
    client_from,
    defenses,
    join,
    observe,
    simulate,
    split,
)
from vidleak_jax.specs import DefenseSpec, FederatedSpec
from vidleak_jax.types import UserError

KEY = jax.random.key(0)


@pytest.mark.parametrize('message, shape', [
    ('frame', (12, 1, 1, 16, 16, 3)),
    ('clip', (3, 1, 4, 16, 16, 3)),
    ('batch', (1, 3, 4, 16, 16, 3)),
])
def test_split_and_join(message, shape, batch):
  messages = split(batch, message)
  assert messages.clips.shape == shape
  assert messages.labels.shape == shape[:2]
  joined = join(messages.clips, num_frames=4)
  np.testing.assert_array_equal(joined, batch.clips)
  per_label = messages.labels.size // 3
  np.testing.assert_array_equal(
      messages.labels.reshape(-1), np.repeat(batch.labels, per_label))


def test_unknown_message(batch):
  with pytest.raises(UserError, match='batch, clip, frame'):
    split(batch, 'video')


def test_fedsgd_is_the_gradient(victim, batch, leak):
  slope = jax.grad(victim.loss)(
      leak.params, batch.clips[1:2], batch.labels[1:2])
  for sent, own in zip(jax.tree.leaves(leak.update), jax.tree.leaves(slope)):
    np.testing.assert_allclose(sent[1], own, atol=1e-6)


def test_one_small_fedavg_step_is_fedsgd_times_the_rate(victim, batch, leak):
  client = FedAvg(local_steps=1, local_learning_rate=0.1)
  update = client.update(
      victim.loss, leak.params, batch.clips[:1], batch.labels[:1])
  for sent, own in zip(jax.tree.leaves(update), jax.tree.leaves(leak.update)):
    np.testing.assert_allclose(sent, 0.1 * own[0], atol=1e-6)


def test_labels_travel_only_when_known(victim, batch):
  args = victim, victim.init(KEY), *batch
  assert observe(*args).labels is None
  known = observe(*args, client=FedSGD(labels_known=True))
  np.testing.assert_array_equal(known.labels[:, 0], batch.labels)


def test_two_fedavg_steps_are_those_of_sgd(victim, batch, leak):
  client = FedAvg(local_steps=2, local_learning_rate=0.1)
  local = leak.params
  for _ in range(2):
    slope = jax.grad(victim.loss)(local, batch.clips[:1], batch.labels[:1])
    local = jax.tree.map(lambda p, g: p - 0.1 * g, local, slope)
  update = client.update(
      victim.loss, leak.params, batch.clips[:1], batch.labels[:1])
  for sent, before, after in zip(*map(
      jax.tree.leaves, (update, leak.params, local)), strict=True):
    np.testing.assert_allclose(sent, before - after, atol=1e-6)


@pytest.mark.parametrize('client', [
    FedSGD(per='batch'),
    FedAvg(per='frame', labels_known=True, local_steps=3,
           local_learning_rate=0.1)], ids=['fedsgd', 'fedavg'])
def test_a_client_comes_back_from_its_public_facts(client):
  assert client_from(client.to_spec()) == client
  with pytest.raises(UserError, match='auto'):
    client_from(FederatedSpec(message='auto'))


def test_what_is_observed_says_how_it_came_about(victim, batch):
  params = victim.init(KEY)
  leak = observe(victim, params, *batch, client=FedSGD(per='batch'),
                 defense=DefenseSpec(clip_norm=0.5))
  public = leak.public
  assert public.batch_size == 3 and leak.num_updates == 1
  assert public.clip_shape == victim.clip_shape and public.num_frames == 4
  assert public.federated.message == 'batch'
  assert public.defense == DefenseSpec(clip_norm=0.5)
  np.testing.assert_allclose(optax.tree.norm(leak.update), 0.5, rtol=1e-5)


def test_a_transform_of_the_users_own_defends_and_is_not_told(victim, batch):
  args = victim, victim.init(KEY), *batch
  plain, halved = observe(*args), observe(*args, defense=optax.scale(0.5))
  assert halved.public.defense is None
  jax.tree.map(lambda a, b: np.testing.assert_allclose(b, 0.5 * a, atol=1e-7),
               plain.update, halved.update)


def test_strengths_of_defences_share_a_program(victim, batch):
  params, updates = victim.init(KEY), split(batch, 'clip')
  traced = []

  def loss(*args):
    traced.append(1)
    return victim.loss(*args)
  one, other = (simulate(loss, FedSGD(), params, updates, DefenseSpec(
      clip_norm=norm)) for norm in (0.5, 0.25))
  count = len(traced)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, 2 * b, atol=1e-6),
               one, other)
  simulate(loss, FedSGD(), params, updates, DefenseSpec(clip_norm=0.125))
  assert len(traced) == count


def test_each_update_has_noise_of_its_own(victim, batch):
  args = victim, victim.init(KEY), batch.clips[[0, 0]], batch.labels[[0, 0]]
  leak = observe(*args, defense=DefenseSpec(noise_std=0.01), key=KEY)
  for leaf in jax.tree.leaves(leak.update):
    assert (leaf[0] != leaf[1]).all()
  with pytest.raises(UserError, match='key'):
    observe(*args, defense=DefenseSpec(noise_std=0.01))


@pytest.mark.parametrize('clips, labels, message', [
    (np.zeros((1, 4, 8, 8, 3)), [0], 'as the victim takes them'),
    (np.full((1, 4, 16, 16, 3), 255.0), [0], 'divide 8-bit pixels by 255'),
    (np.full((1, 4, 16, 16, 3), np.nan), [0], r'must lie in \[0, 1\]'),
    (np.zeros((1, 4, 16, 16, 3)), [0.5], 'whole numbers'),
    (np.zeros((1, 4, 16, 16, 3)), [0, 1], 'one for each of 1 clips'),
    (np.zeros((1, 4, 16, 16, 3)), [7], 'classes 0 to 6')])
def test_clips_that_do_not_fit_are_told(victim, clips, labels, message):
  with pytest.raises(UserError, match=message):
    observe(victim, victim.init(KEY), clips, labels)


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
