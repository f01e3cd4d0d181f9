"""Closed form of video transformers, and the polish."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import psnr, share
from vidleak_jax import victims
from vidleak_jax.attacks import analytic
from vidleak_jax.attacks.analytic import transformer
from vidleak_jax.types import UserError
from vidleak_jax.victims.lenet import lenet

SHAPE = (4, 16, 16, 3)  # 2 x 2 x 2 tubelets for 16 numbers of width


def random_clips(num, shape):
  return jax.random.uniform(jax.random.key(1), (num, 1, *shape))


@pytest.fixture(scope='module')
def vivit():
  return victims.build('vivit', SHAPE, 7, preset='tiny', pool='token')


@pytest.fixture(scope='module')
def clips():
  return random_clips(2, SHAPE)


@pytest.fixture(scope='module')
def leak(vivit, clips):
  return share(vivit, clips, jnp.array([[3], [5]]))


def test_whole_clips_with_a_class_token(vivit, clips, leak):
  found = analytic.recover_tokens(vivit, leak)
  assert found.note == ''
  assert psnr(found.clips, clips) > 70
  np.testing.assert_array_equal(found.labels, [3, 5])
  assert found.report[0]['rank'] == found.report[0]['unknowns'] == 8


def _without(update, *path):
  """The update with the leaves below a path set to zero."""
  name, *below = path
  return update | {name: _without(update[name], *below) if below
                   else jax.tree.map(jnp.zeros_like, update[name])}


@pytest.mark.parametrize('part', ['kernel', 'positions'])
def test_a_leaf_that_a_defence_zeroed_is_told(vivit, leak, part):
  path = {'kernel': ('embed', 'kernel'), 'positions': vivit.tokens.positions}
  update = _without(leak.update, *path[part])
  with pytest.raises(UserError, match=r'is zero in 2 of 2 messages'):
    analytic.recover_tokens(vivit, leak.replace(update=update))


def test_noise_is_measured_and_said(vivit, clips, leak):
  kernel = leak.update['embed']['kernel']
  rms = jnp.sqrt(jnp.mean(kernel ** 2, axis=(1, 2), keepdims=True))
  noise = 1e-2 * rms * jax.random.normal(jax.random.key(0), kernel.shape)
  update = {**leak.update, 'embed': {**leak.update['embed'],
                                     'kernel': kernel + noise}}
  found = analytic.recover_tokens(vivit, leak.replace(update=update))
  assert 5e-3 < found.report[0]['noise'] < 2e-2
  assert np.isfinite(found.clips).all()
  assert np.abs(found.clips).max() < 10


def test_what_a_defence_set_to_zero_is_said(vivit, leak):
  def prune(leaf):
    return jnp.where(jnp.abs(leaf) > jnp.quantile(jnp.abs(leaf), 0.8), leaf, 0)
  found = analytic.recover_tokens(
      vivit, leak.replace(update=jax.tree.map(prune, leak.update)),
      batch_size=1)
  assert '% of the gradient is zero' in found.note
  assert found.report[0]['zeroed'] > 0.6
  assert np.mean((found.clips - 0.5) ** 2) < 0.25  # grey, no garbage


def test_more_tokens_than_width_leave_exact_constraints():
  shape = (8, 32, 32, 3)  # 64 tubelets for a width of 16
  victim = victims.build('vivit', shape, 7, preset='tiny', pool='mean')
  clips = random_clips(1, shape)
  found = analytic.recover_tokens(
      victim, share(victim, clips, jnp.array([[3]])))
  assert 'N <= D fails' in found.note
  assert 1 <= found.report[0]['rank'] <= 16
  span, = found.spans
  truth, known, grey = (span.T @ victim.tokens.patches(x)[0]
                        for x in (clips[0], found.clips[0], clips[0] * 0 + 0.5))
  assert np.mean((known - truth) ** 2) < 1e-3 * np.mean((grey - truth) ** 2)


def test_batches_and_other_victims_are_refused(vivit, leak):
  with pytest.raises(UserError, match='one clip per message'):
    analytic.recover_tokens(vivit, leak, batch_size=2)
  with pytest.raises(UserError, match='learned positions'):
    analytic.recover_tokens(lenet((1, 8, 8, 3), 10), leak)


@pytest.mark.slow
@pytest.mark.parametrize('scale', [1.0, 0.3])
def test_polish_comes_closer_from_near_and_never_goes_away(scale):
  """Also where a defence has clipped the gradient to a share of its norm."""
  victim = lenet((1, 8, 8, 3), 10)
  clips, labels = random_clips(2, (1, 8, 8, 3)), jnp.array([[3], [5]])
  leak = share(victim, clips, labels)
  leak = leak.replace(update=jax.tree.map(lambda g: scale * g, leak.update))
  start = clips + 1e-2 * jax.random.normal(jax.random.key(2), clips.shape)
  found = analytic.polish(victim.loss, leak, start, labels, num_steps=2,
                             inner_steps=300)
  assert psnr(found.clips, clips) > psnr(start, clips) + 15
  assert np.all(found.after < 0.1 * found.before)


def test_leaves_of_rounding_alone_do_not_count(vivit, clips, leak):
  """The biases of attention's keys have no gradient but rounding."""
  found = analytic.polish(vivit.loss, leak, clips,
                             jnp.array([[3], [5]]), num_steps=0)
  assert np.all(found.after < 1e-4)


def test_small_columns_of_the_gradient_are_trusted_as_far_as_they_are_exact():
  """Rounding is in proportion to a column: plain least squares wastes 10 dB."""
  rng = np.random.default_rng(0)
  delta = rng.normal(size=(12, 48)) * np.logspace(-2, 2, 48)
  truth = rng.uniform(size=(12, 30))
  exact = truth.T @ delta
  kernel = exact + 1e-7 * rng.normal(size=exact.shape) * np.linalg.norm(
      delta, axis=0)
  found = transformer._solve(
      delta, kernel, np.full((12, 30), 0.5), 0.0, None)[0]
  plain = np.linalg.lstsq(delta.T, kernel.T)[0]
  assert psnr(found, truth) > psnr(plain, truth) + 9
