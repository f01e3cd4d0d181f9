"""Each observation model holds the gradient that was defended."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vidleak_jax.attacks import detection, observation
from vidleak_jax.attacks.observation import Applied, observe_update
from vidleak_jax.clients.defenses import DEFENSES
from vidleak_jax.types import UserError

KEY = jax.random.key(3)


@pytest.fixture(scope='module')
def update():
  rng = np.random.default_rng(0)

  def draw(*shape):
    return (rng.standard_t(4, shape) / 50).astype(np.float32)
  error = draw(40)
  return {'conv': {'kernel': draw(3, 20, 12), 'bias': draw(12)},
          'head': {'kernel': np.outer(draw(300), error).astype(np.float32) * 20,
                   'bias': error}}


def send(update, chain):
  made = []
  for each in chain:
    row = DEFENSES[each.name]
    key = {'key': KEY} if row.has_key else {}
    made.append(row.factory(**key, **each.strengths))
  chained = optax.chain(*made, optax.identity())
  return jax.tree.map(
      np.asarray, chained.update(update, chained.init(update), update)[0])


def pairs(update, seen):
  leaves = jax.tree.leaves(seen, is_leaf=lambda x: isinstance(
      x, observation.Observed))
  return zip(jax.tree.leaves(update), leaves)


CHAINS = {
    'none': [],
    'noise': [Applied('gaussian_noise', {'std': 0.01})],
    'prune': [Applied('prune', {'fraction': 0.8})],
    'quantize': [Applied('quantize', {'bits': 6})],
    'percentile': [Applied('nvflare_percentile',
                           {'percentile': 20, 'gamma': 0.02})],
    'top_k': [Applied('top_k', {'fraction': 0.3})],
    'qsgd': [Applied('qsgd', {'levels': 60})],
    'excluded': [Applied('exclude_vars', {'patterns': 'conv/bias'})],
    'local_dp': [Applied('local_dp_mod', {
        'clipping_norm': 1e6, 'sensitivity': 1e-3, 'epsilon': 1.0,
        'delta': 1e-5})],
    'noise, quantize': [Applied('gaussian_noise', {'std': 0.01}),
                        Applied('quantize', {'bits': 6})],
    'prune, noise': [Applied('prune', {'fraction': 0.5}),
                     Applied('gaussian_noise', {'std': 1e-3})],
    'sign': [Applied('sign')],
}


@pytest.mark.parametrize('name', CHAINS)
def test_the_gradient_lies_where_the_observation_says(name, update):
  seen = observe_update(send(update, CHAINS[name]), CHAINS[name])
  for leaf, each in pairs(update, seen):
    assert each.low.shape == leaf.shape and (each.low <= each.high).all()
    outside = leaf - np.clip(leaf, each.low, each.high)
    over = np.abs(outside) / each.std
    assert np.mean(over < 5) > 0.99
    values = each.is_value
    if values.sum() > 200 and 'prune' not in name:
      assert np.mean(over[values] ** 2) < 1.3


def test_values_intervals_and_half_lines(update):
  chain = CHAINS['percentile']
  seen = observe_update(send(update, chain), chain)['head']['kernel']
  clipped = np.abs(update['head']['kernel']) >= 0.02
  np.testing.assert_array_equal(seen.is_clipped, clipped)
  assert np.isinf(seen.high[clipped & (update['head']['kernel'] > 0)]).all()
  gone = observe_update(
      send(update, CHAINS['excluded']), CHAINS['excluded'])['conv']['bias']
  assert np.isinf(gone.low).all() and np.isinf(gone.high).all()


def test_only_some_defences_hide_the_scale():
  assert observation.scale_is_known(CHAINS['noise'])
  assert not observation.scale_is_known(CHAINS['local_dp'])


def test_an_unknown_defence_is_told(update):
  with pytest.raises(UserError, match='soteria'):
    observe_update(update, [Applied('soteria')])


@pytest.mark.parametrize('name, found', [
    ('none', None), ('noise', 'gaussian_noise'), ('prune', 'prune'),
    ('quantize', 'quantize'), ('percentile', 'nvflare_percentile'),
    ('top_k', 'top_k'), ('qsgd', 'qsgd'), ('excluded', 'exclude_vars'),
    ('noise, quantize', 'quantize')])
def test_a_defence_is_found_in_the_update(name, found, update):
  findings = detection.detect(send(update, CHAINS[name]))
  assert [f.applied.name for f in findings] == ([found] if found else [])
  assert all(f.text.endswith('.') for f in findings)


def test_the_strengths_that_are_found_are_those_that_were_applied(update):
  def strengths(name):
    return detection.detect(send(update, CHAINS[name]))[0].applied.strengths
  assert strengths('quantize')['bits'] == 6
  np.testing.assert_allclose(strengths('noise')['std'], 0.01, rtol=0.15)
  np.testing.assert_allclose(strengths('percentile')['gamma'], 0.02, rtol=1e-5)
  np.testing.assert_allclose(strengths('prune')['fraction'], 0.8, atol=0.01)


def test_units_that_are_off_are_no_defence(update):
  kernel = np.array(update['conv']['kernel'])
  kernel[..., :3] = 0  # three dead units
  findings = detection.detect({
      'conv': {'kernel': kernel}, 'head': update['head']})
  assert not any(finding.applied for finding in findings)


def test_a_detected_defence_is_observed_like_a_told_one(update):
  sent = send(update, CHAINS['quantize'])
  told = observe_update(sent, CHAINS['quantize'])
  jax.tree.map(np.testing.assert_array_equal, observe_update(sent, None), told)
  assert jnp.all(told['head']['bias'].std > 0)
