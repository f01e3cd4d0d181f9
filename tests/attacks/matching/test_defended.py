"""The attack on tiny networks."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidleak_jax import victims
from vidleak_jax.attacks.matching import defended, defended_steps
from vidleak_jax.attacks.matching.defended import DefendedOptions
from vidleak_jax.attacks.matching.defended_model import (
    all_misses,
    expected_shares,
    top_misses,
)
from vidleak_jax.attacks.observation import Applied, observe_update
from vidleak_jax.clients import defenses
from vidleak_jax.types import UserError

SHAPE = 2, 8, 8, 3
KEY = jax.random.key(0)
QUICK = DefendedOptions(top_steps=60, finish_steps=10, newton_steps=10,
                        newton_inner=60, chunk=30)


@pytest.fixture(scope='module')
def victim():
  return victims.build('c3d', SHAPE, 7, preset='tiny')


@pytest.fixture(scope='module')
def clip():
  t, y, x, c = np.meshgrid(*map(np.arange, SHAPE), indexing='ij')
  return (0.5 + 0.4 * np.sin(x / 3 + y / 4 + t / 5 + c)).astype(np.float32)


def gradient(victim, clip):
  params = victim.init(jax.random.key(1))
  update = jax.jit(jax.grad(victim.loss))(
      params, clip[None], np.array([4], np.int32))
  return params, jax.tree.map(np.asarray, update)


def error(result, clip):
  return float(np.sqrt(np.mean((result.clip - clip) ** 2)))


def defended_gradient(victim, clip, applied):
  params, update = gradient(victim, clip)
  for each in applied:
    row = defenses.DEFENSES[each.name]
    key = {'key': KEY} if row.has_key else {}
    defense = row.factory(**key, **each.strengths)
    update, _ = defense.update(update, defense.init(update), update)
  return params, jax.tree.map(np.asarray, update)


def recover(victim, clip, applied, options=QUICK, **more):
  params, update = defended_gradient(victim, clip, applied)
  return defended.recover_defended(
      victim.layers, params, update, observe_update(update, applied), None,
      SHAPE, KEY, options=options, **more)


@pytest.mark.slow
@pytest.mark.parametrize('applied', [
    (), (Applied('gaussian_noise', {'std': 1e-3}),),
    (Applied('nvflare_percentile', {'percentile': 10, 'gamma': 0.1}),)],
    ids=['none', 'noise', 'percentile'])
def test_a_smooth_clip_is_recovered(victim, clip, applied):
  seen = []
  result = recover(victim, clip, applied,
                   progress=lambda *row: seen.append(row[:3]))
  assert result.label == 4 and result.clip.shape == SHAPE
  assert error(result, clip) < 0.5 * clip.std()
  assert seen[0][1:] == (30, 60) and seen[-1][1] == seen[-1][2]
  assert np.isfinite(result.chi2) and result.notes


@pytest.mark.slow
@pytest.mark.parametrize('applied', [
    (Applied('quantize', {'bits': 8}),),
    (Applied('prune', {'fraction': 0.9}),)], ids=['rounded', 'pruned'])
def test_gauss_newton_at_the_end_comes_closer(victim, clip, applied):
  rough, fine = (error(recover(victim, clip, applied, options), clip)
                 for options in (dataclasses.replace(QUICK, finish_steps=0),
                                 QUICK))
  assert fine < 0.8 * rough


@pytest.mark.slow
def test_less_noise_leaves_more_of_the_clip(victim, clip):
  _, update = gradient(victim, clip)
  rms = np.sqrt(np.mean(update[victim.layers[-2].name]['kernel'] ** 2))
  errors = [error(recover(victim, clip, (
      Applied('gaussian_noise', {'std': float(ratio * rms)}),)), clip)
            for ratio in (3e-4, 1e-3, 3e-3, 9e-3)]
  assert errors == sorted(errors) and errors[0] < 0.02 * clip.std()


@pytest.mark.parametrize(('name', 'strengths', 'are_few'), [
    ('prune', {'fraction': 0.9}, True), ('prune', {'fraction': 0.2}, False),
    ('gaussian_noise', {'std': 1e-9}, False), ('quantize', {'bits': 8}, False)])
def test_errors_stay_where_few_entries_are_values(
    victim, clip, name, strengths, are_few):
  applied = (Applied(name, strengths),)
  params, update = defended_gradient(victim, clip, applied)
  target, *_ = defended.prepare(
      victim.layers, params, update, observe_update(update, applied))
  signs, features = defended.assumed_errors(target, QUICK)
  assert (signs, features) == (
      (QUICK.sparse_finish_errors, QUICK.sparse_feature_errors) if are_few
      else (QUICK.finish_errors, QUICK.feature_errors))


def test_a_second_clip_does_not_compile(victim, clip):
  short = dataclasses.replace(QUICK, finish_steps=0)
  assert np.isfinite(recover(victim, clip, [], short).chi2)
  programs = defended_steps._adam_chunk, defended_steps.top_step
  sizes = [program._cache_size() for program in programs]
  recover(victim, 1 - clip, [], short)
  assert sizes == [program._cache_size() for program in programs]


@pytest.mark.parametrize('activation', ['leaky_relu', 'relu', 'gelu'])
def test_the_true_clip_has_no_misfit(clip, activation):
  victim = victims.build(
      'c3d', SHAPE, 7, preset='tiny', activation=activation)
  params, update = gradient(victim, clip)
  target, head, _ = defended.prepare(
      victim.layers, params, update, observe_update(update, []))
  assert head.label == 4
  def misses(clips, tau):
    top = top_misses(victim.layers, params, target, clips, tau, per_entry=False)
    shares, _ = expected_shares(victim.layers, params, target, clips, tau)
    return top, all_misses(
        victim.layers, params, target, clips, shares, tau, 1e-5)
  for tau in (1e-2, 1e-3, 1e-6):
    top, every = jax.jit(misses)(clip[None], tau)
    assert max(np.mean(np.square(part)) for part in top) < 2
  # Shares that are sharp are right.
  assert len(every) == 1 + 3 * (len(victim.layers) - 1)
  assert max(np.mean(np.square(part)) for part in every) < 2


def test_slopes_are_found_beside_the_pixels(victim, clip):
  params, update = gradient(victim, clip)
  noise = (Applied('gaussian_noise', {'std': 1e-5}),)
  target, *_ = defended.prepare(
      victim.layers, params, update, observe_update(update, noise))
  tau, near = jnp.float32(0.1), np.clip(clip + 0.03, 0, 1)[None]
  shares = defended_steps.slopes(victim.layers, params, target, near, tau)
  moved = defended_steps.joint_step(
      victim.layers, 300, params, target, near, shares, tau, jnp.float32(1e-5),
      jnp.float32(1), jnp.zeros((1, *near.shape)))
  truth = defended_steps.slopes(
      victim.layers, params, target, clip[None], jnp.float32(1e-6))
  before, after = (
      sum(float(np.sum((a - b) ** 2)) for a, b in zip(each, truth))
      for each in (shares, moved[1]))
  assert after < before
  assert np.mean((moved[0] - clip) ** 2) < np.mean((near - clip) ** 2)


def test_wrong_use_is_told(victim, clip):
  params, update = gradient(victim, clip)
  stacked = jax.tree.map(lambda leaf: leaf[None], update)
  with pytest.raises(UserError, match='one message'):
    defended.prepare(victim.layers, params, stacked, stacked)
  with pytest.raises(UserError, match='chain of convolutions'):
    defended.prepare(victim.layers[:1], params, update, update)
  with pytest.raises(UserError, match='finish_steps'):
    DefendedOptions(finish_steps=-1)
  with pytest.raises(UserError, match='above 0'):
    dataclasses.replace(QUICK, top_errors=(1.0, 0.0))
