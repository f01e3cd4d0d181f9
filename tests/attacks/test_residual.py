"""The one measure that ranks attacks, against its formula."""

import jax
import numpy as np
import optax
import pytest

from tests.helpers import dense_victim, small_clips
from vidleak_jax.attacks import gradient_residual
from vidleak_jax.attacks.residual import noise_floor
from vidleak_jax.clients import FedAvg, FedSGD, observe
from vidleak_jax.runtime.programs import ProgramCache
from vidleak_jax.specs import DefenseSpec
from vidleak_jax.types import UserError

NUM_CLIPS = 3
LABELS = np.array([1, 4, 0])


@pytest.fixture(scope='module')
def victim():
  return dense_victim()


@pytest.fixture(scope='module')
def clips():
  return small_clips(NUM_CLIPS)


@pytest.fixture
def watch(victim, clips):
  def watch(**options):
    return observe(victim, victim.init(None), clips, LABELS,
                   key=jax.random.key(1), **options)
  return watch


def at_truth(victim, leak, clips):
  shape = leak.num_updates, leak.public.batch_size
  return gradient_residual(
      victim, leak, clips.reshape(*shape, *leak.public.clip_shape),
      LABELS.reshape(shape))


@pytest.mark.parametrize('client', [
    FedSGD(), FedSGD(per='batch'), FedAvg(
        local_steps=3, local_learning_rate=0.01)], ids=str)
@pytest.mark.parametrize('defense', [
    {}, {'clip_norm': 0.05}, {'prune_fraction': 0.7}, {'quantize_bits': 4},
    {'clip_norm': 0.05, 'prune_fraction': 0.7, 'quantize_bits': 4},
    {'exclude_vars': 'bias', 'topk_fraction': 0.5, 'sign': 'scaled'}], ids=str)
def test_it_is_0_at_the_truth_behind_what_is_not_random(
    client, defense, watch, victim, clips):
  leak = watch(client=client, defense=DefenseSpec(**defense))
  found = at_truth(victim, leak, clips)
  assert found.shape == (leak.num_updates,) and found.dtype == np.float32
  assert (found < 1e-5).all()


def test_dp_sgd_is_clipped_in_the_guess_as_in_the_client(watch, victim, clips):
  spec = DefenseSpec.from_dict({'dp_sgd': {'clip_norm': 0.05}})
  leak = watch(client=FedSGD(per='batch'), defense=spec)
  assert optax.tree.norm(leak.update) < 0.05
  assert (at_truth(victim, leak, clips) < 1e-5).all()
  with pytest.raises(UserError, match=r'needs federated\.algorithm=fedsgd'):
    watch(client=FedAvg(), defense=spec)


def test_the_floor_knows_every_noise(watch, victim, clips):
  for defense in ({'dp_sgd': {'clip_norm': 0.05, 'noise_multiplier': 0.1}},
                  {'local_dp': {'epsilon': 10.0, 'sensitivity': 0.01}},
                  {'qsgd_levels': 50}):
    leak = watch(defense=DefenseSpec.from_dict(defense))
    np.testing.assert_allclose(at_truth(victim, leak, clips),
                               noise_floor(leak), rtol=0.2)


def test_it_is_about_1_for_an_unrelated_clip(watch, victim, clips):
  leak = watch()
  other = np.random.default_rng(1).uniform(size=clips.shape)
  labels = (LABELS + 2) % 5
  found = gradient_residual(victim, leak, other[:, None].astype(np.float32),
                            labels[:, None])
  assert ((0.7 < found) & (found < 2)).all()


def test_it_is_the_relative_distance_of_whole_updates(watch, victim, clips):
  leak = watch()
  other = 1 - clips[:, None]
  found = gradient_residual(victim, leak, other, LABELS[:, None])
  for i in range(NUM_CLIPS):
    sent = jax.tree.map(lambda leaf, i=i: leaf[i], leak.update)
    would = jax.grad(victim.loss)(leak.params, other[i], LABELS[i:i + 1])
    gap = optax.tree.norm(jax.tree.map(np.subtract, would, sent))
    np.testing.assert_allclose(found[i], gap / optax.tree.norm(sent), rtol=1e-5)


def test_noise_is_not_simulated_but_its_size_remains(watch, victim, clips):
  plain = watch()
  leak = watch(defense=DefenseSpec(noise_std=1e-3))
  found = at_truth(victim, leak, clips)
  for i in range(NUM_CLIPS):
    noise, sent = (optax.tree.norm(jax.tree.map(
        lambda a, b, i=i: a[i] - b[i], leak.update, rest))
                   for rest in (plain.update, jax.tree.map(
                       np.zeros_like, leak.update)))
    np.testing.assert_allclose(found[i], noise / sent, rtol=1e-3)
  np.testing.assert_array_equal(found, at_truth(victim, leak, clips))


def test_a_defence_that_is_not_known_is_not_simulated(watch, victim, clips):
  leak = watch(defense=optax.scale(0.5))
  np.testing.assert_allclose(at_truth(victim, leak, clips), 1.0, rtol=1e-4)


def test_strengths_share_a_program(watch, victim, clips):
  programs = ProgramCache()
  for norm in (0.05, 0.02):
    leak = watch(defense=DefenseSpec(clip_norm=norm))
    gradient_residual(victim, leak, clips[:, None], LABELS[:, None],
                      programs=programs)
  assert len(programs) == 1


@pytest.mark.parametrize(('wrong', 'labels'), [
    (lambda clips: clips, LABELS[:, None]),
    (lambda clips: clips[:2, None], LABELS[:, None]),
    (lambda clips: clips[:, None], LABELS)])
def test_other_shapes_are_refused(wrong, labels, watch, victim, clips):
  with pytest.raises(UserError, match='do not fit a leak'):
    gradient_residual(victim, watch(), wrong(clips), labels)
