"""Every row of the table of defences, and each formula against its source."""

import functools
import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vidleak_jax.clients import defenses
from vidleak_jax.clients.defenses import DEFENSES
from vidleak_jax.specs import DefenseSpec
from vidleak_jax.types import UserError

KEY = jax.random.key(0)
WITH_NOISE = {'gaussian_noise', 'local_dp_mod', 'svt_privacy', 'qsgd'}


@pytest.fixture(scope='module')
def update():
  rng = np.random.default_rng(0)

  def draw(*shape):
    return jnp.asarray(rng.standard_t(3, shape) / 50, jnp.float32)
  return {'conv': {'kernel': draw(3, 4, 5), 'bias': draw(5)},
          'head': {'kernel': draw(40, 7), 'bias': draw(7)}}


def make(name, options=None):
  row = DEFENSES[name]
  key = {'key': KEY} if row.has_key else {}
  return row.factory(**key, **(row.example if options is None else options))


def apply(defense, update):
  return defense.update(update, defense.init(update), update)[0]


def leaves(tree):
  return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


@pytest.mark.parametrize('name', DEFENSES)
def test_a_row_says_what_its_factory_takes(name):
  row = DEFENSES[name]
  taken = set(inspect.signature(row.factory).parameters)
  assert set(row.example) | set(row.off or ()) <= taken
  assert row.has_key == ('key' in taken)
  assert row.leaves


@pytest.mark.parametrize('name', DEFENSES)
def test_shapes_stay_and_the_second_call_does_not_compile(name, update):
  defense = make(name)
  state = defense.init(update)
  step = jax.jit(defense.update)
  once, state = step(update, state)
  twice, _ = step(update, state)
  assert step._cache_size() == 1
  for a, b in zip(leaves(update), leaves(once)):
    assert a.shape == b.shape and a.dtype == b.dtype and np.isfinite(b).all()
  changed = any((a != b).any() for a, b in zip(leaves(once), leaves(twice)))
  assert changed == (name in WITH_NOISE | {'top_k'})


@pytest.mark.parametrize('name', [n for n, row in DEFENSES.items() if row.off])
def test_without_strength_nothing_changes(name, update):
  for a, b in zip(leaves(update), leaves(apply(
      make(name, DEFENSES[name].off), update))):
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize('names', list(itertools.pairwise(DEFENSES))[::2])
def test_defences_chain(names, update):
  chain = optax.chain(*map(make, names))
  step = jax.jit(chain.update)
  once, state = step(update, chain.init(update))
  step(once, state)
  assert step._cache_size() == 1
  assert all(np.isfinite(leaf).all() for leaf in leaves(once))


@pytest.mark.parametrize('name, option', [
    ('clip_by_global_norm', 'max_norm'), ('gaussian_noise', 'std'),
    ('prune', 'fraction'), ('quantize', 'bits'), ('top_k', 'fraction'),
    ('nvflare_percentile', 'gamma'), ('qsgd', 'levels'),
    ('local_dp_mod', 'sensitivity'), ('local_dp_mod', 'epsilon')])
def test_strengths_are_arguments_of_a_program(name, option, update):
  options = dict(DEFENSES[name].example)
  strength = options.pop(option)
  traced = jax.jit(lambda value: apply(
      make(name, options | {option: value}), update))(strength)
  jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
      traced, apply(make(name), update))


@pytest.mark.parametrize('name, wrong', [
    ('clip_by_global_norm', {'max_norm': 0.0}),
    ('gaussian_noise', {'std': -1e-3}),
    ('gaussian_noise', {'std': float('nan')}),
    ('prune', {'fraction': 1.5}),
    ('quantize', {'bits': 7.5}),
    ('quantize', {'bits': 64}),
    ('nvflare_percentile', {'percentile': 101}),
    ('nvflare_percentile', {'gamma': 0.0}),
    ('svt_privacy', {'options': defenses.SVTOptions(epsilon=0.0)}),
    ('exclude_vars', {'patterns': '('}),
    ('local_dp_mod', dict(clipping_norm=1.0, sensitivity=1.0, epsilon=0.0,
                          delta=1e-5)),
    ('top_k', {'fraction': 0.0}),
    ('qsgd', {'levels': -1})])
def test_a_wrong_strength_is_told(name, wrong):
  with pytest.raises(UserError, match=r'Give|expression'):
    make(name, wrong)


def test_a_pattern_that_fits_nothing_is_told(update):
  for patterns in ('nothing', ['conv/kernel', 'conv']):
    with pytest.raises(UserError, match='head/bias'):
      apply(defenses.exclude_vars(patterns), update)


def test_excluded_leaves_are_zero(update):
  sent = apply(defenses.exclude_vars(['head/bias']), update)
  assert not sent['head']['bias'].any()
  assert sent['conv']['bias'] is update['conv']['bias']


@pytest.mark.parametrize('percentile', [0, 10, 33.3, 100])
def test_nvflare_percentile_is_numpys(percentile, update):
  sent = apply(defenses.nvflare_percentile(percentile, 0.02, 3), update)
  scaled = [leaf / 3 for leaf in leaves(update)]
  cutoff = np.percentile(
      np.concatenate([np.abs(leaf).ravel() for leaf in scaled]), percentile)
  for got, leaf in zip(leaves(sent), scaled):
    leaf = leaf.copy()
    leaf[(leaf > -cutoff) & (leaf < cutoff)] = 0.0
    np.testing.assert_array_equal(got, np.clip(leaf, -0.02, 0.02) * 3)


def test_svt_shares_a_fraction_with_laplace_noise(update):
  values = {'kernel': jnp.full((400, 50), 2e-3), 'scale': jnp.float32(7)}
  options = defenses.SVTOptions(fraction=0.2, epsilon=1e6, noise_var=2.0,
                                gamma=1e-3, tau=0.0, replace=False)
  sent = apply(defenses.svt_privacy(KEY, options), values)
  assert sent['scale'] == 7
  shared = np.asarray(sent['kernel'])[np.asarray(sent['kernel']) != 0]
  assert abs(len(shared) - 4001) <= 1
  # Laplace noise of scale 2 gamma / noise_var about the clipped value.
  assert abs(np.median(shared) - 1e-3) < 1e-4
  assert abs(np.mean(np.abs(shared - 1e-3)) - 1e-3) < 1e-4


def test_local_dp_mod_clips_and_adds_its_noise():
  update = {'kernel': jnp.full((300, 300), 1.0)}
  std = defenses.local_dp_std(0.5, 2.0, 1e-5)
  np.testing.assert_allclose(std, 0.25 * np.sqrt(2 * np.log(1.25e5)))
  sent = np.asarray(apply(
      defenses.local_dp_mod(30.0, 0.5, 2.0, 1e-5, KEY), update)['kernel'])
  np.testing.assert_allclose(sent.mean(), 0.1, atol=0.02)
  np.testing.assert_allclose(sent.std(), std, rtol=0.02)


def test_top_k_sends_the_rest_later(update):
  defense = defenses.top_k(0.1)
  state, total = defense.init(update), optax.tree.zeros_like(update)
  zero = total
  for step in range(12):
    sent, state = defense.update(zero if step else update, state)
    total = optax.tree.add(total, sent)
  jax.tree.map(np.testing.assert_array_equal, total, update)
  sizes = np.concatenate([np.abs(leaf).ravel() for leaf in leaves(
      apply(defenses.top_k(0.1), update))])
  assert (sizes > 0).sum() == np.ceil(0.1 * len(sizes))


def test_qsgd_is_unbiased_on_its_grid(update):
  norm = float(jnp.linalg.norm(update['head']['kernel']))
  sent = jax.vmap(lambda key: apply(defenses.qsgd(4, key), update))(
      jax.random.split(KEY, 800))['head']['kernel']
  places = np.asarray(sent) * 4 / norm
  np.testing.assert_allclose(places, np.round(places), atol=1e-4)
  np.testing.assert_allclose(
      places.mean(0) * norm / 4, update['head']['kernel'],
      atol=5 * norm / 8 / 800 ** 0.5)


def test_clipping_noise_pruning_and_levels_are_what_they_say(update):
  def after(**chosen):
    return apply(defenses.build(KEY, **chosen), update)

  norm = 0.5 * float(optax.tree.norm(update))
  np.testing.assert_allclose(
      optax.tree.norm(after(clip_norm=norm)), norm, rtol=1e-5)
  kernel = after(prune_fraction=0.7)['head']['kernel']
  assert 0.68 < float(jnp.mean(kernel == 0)) < 0.72
  kernel = after(quantize_bits=3)['head']['kernel']
  assert len(np.unique(np.round(kernel / np.abs(kernel).max(), 4))) <= 7
  assert after() is update


FIELDS = {  # a config's field, and what it stands for
    'local_dp': ({'clipping_norm': 0.1, 'epsilon': 1e6, 'sensitivity': 1e-4},
                 defenses.local_dp_mod(0.1, 1e-4, 1e6, 1e-5, KEY)),
    'exclude_vars': ('^head', defenses.exclude_vars('^head')),
    'topk_fraction': (0.2, defenses.top_k(0.2)),
    'sign': ('scaled', defenses.sign(scaled=True)),
    'qsgd_levels': (4, None),
    'svt': ({'fraction': 0.1}, None),
}


@pytest.mark.parametrize('name', FIELDS)
def test_a_configs_field_is_its_row_of_the_table(name, update):
  value, row = FIELDS[name]
  spec = DefenseSpec.from_dict({name: value})
  assert list(spec.active()) == [name] and not spec.is_off
  sent = apply(defenses.from_spec(spec, KEY), update)
  if row is None:
    assert any((a != b).any() for a, b in zip(leaves(sent), leaves(update)))
  else:
    for a, b in zip(leaves(sent), leaves(apply(row, update))):
      np.testing.assert_allclose(a, b, atol=1e-8)
  calm = apply(defenses.from_spec(spec, KEY, random=False), update)
  if name in ('qsgd_levels', 'svt'):
    assert all((a == b).all() for a, b in zip(leaves(calm), leaves(update)))


@pytest.mark.parametrize(('values', 'says'), [
    ({'exclude_vars': '('}, 'no regular expression'),
    ({'local_dp': {'epsilon': -1.0}}, 'epsilon is -1'),
    ({'local_dp': {'noise': 1.0}}, 'no field'),
    ({'topk_fraction': 2.0}, 'topk_fraction is 2'),
    ({'sign': 'both'}, "sign is 'both'"),
    ({'dp_sgd': {'noise_multiplier': float('nan')}}, 'noise_multiplier is nan'),
], ids=str)
def test_a_field_out_of_range_is_refused(values, says):
  with pytest.raises(UserError, match=says):
    DefenseSpec.from_dict(values)


def test_groups_that_are_off_do_nothing(update):
  spec = DefenseSpec.from_dict({
      'local_dp': {'clipping_norm': 1e-9}, 'svt': {'gamma': 1.0},
      'dp_sgd': {'noise_multiplier': 1.0}})
  assert spec.is_off and spec.active() == {}
  assert apply(defenses.from_spec(spec, KEY), update) is update


def test_the_noise_of_all_fields_adds_up():
  spec = DefenseSpec.from_dict({
      'noise_std': 0.3, 'dp_sgd': {'clip_norm': 2.0, 'noise_multiplier': 1.0},
      'local_dp': {'epsilon': 1.0, 'sensitivity': 0.0}})
  np.testing.assert_allclose(defenses.noise_std_of(spec, 5), 0.5)
