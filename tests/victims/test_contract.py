"""What every victim of the table keeps to."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import mostly_quick
from vidleak_jax.types import UserError
from vidleak_jax.victims import NETWORKS, build

K, B = 5, 2
VARIANTS = {
    'r3d18_batch': ('r3d18', {'norm': 'batch'}),
    'frozen_matrix': ('frozen', {'head': 'matrix'}),
}
CASES = {name: (name, {}) for name in NETWORKS} | VARIANTS
DEEP = {'r2plus1d18', 'r3d18', 'r3d18_batch', 'timesformer', 'videomae',
        'vivit'}  # whose programs compile for long


def _clip_shape(name):
  return (1 if name == 'lenet' else 4, 16, 16, 3)


@functools.cache
def _case(case):
  """The victim, its params, and a batch."""
  name, options = CASES[case]
  shape = _clip_shape(name)
  victim = build(name, shape, K, preset='tiny', **options)
  params = victim.init(jax.random.key(0))
  clips = np.random.default_rng(0).random((B, *shape), np.float32)
  return victim, params, jnp.asarray(clips), jnp.array([1, 3])


@pytest.fixture(params=mostly_quick(CASES, DEEP))
def case(request):
  return _case(request.param)


def _find(tree, path):
  return functools.reduce(lambda node, key: node[key], path, tree)


def test_gradients_of_many_restarts(case):
  """Gradients under vmap: finite, right at the head, none for statistics."""
  victim, params, clips, labels = case

  def answer(clips):
    grads = jax.grad(victim.loss)(params, clips, labels)
    return victim.logits(params, clips), grads

  step = jax.jit(jax.vmap(answer))
  for restarts in (clips[None] * jnp.ones((3, 1, 1, 1, 1, 1)), clips[None] *
                   jnp.array([1, 0.5, 0]).reshape(3, 1, 1, 1, 1, 1)):
    logits, grads = step(restarts)
  assert step._cache_size() == 1
  assert logits.shape == (3, B, K)
  jax.tree.map(lambda g: np.testing.assert_array_equal(jnp.isfinite(g), True),
               grads)

  error = jnp.mean(jax.nn.softmax(logits) - jax.nn.one_hot(labels, K), axis=1)
  head = _find(grads, victim.head)
  np.testing.assert_allclose(head['bias'], error, atol=1e-6)
  assert head['kernel'].shape[-1] == K
  for leaf in jax.tree.leaves(grads.get('batch_stats', {})):
    assert not leaf.any()


@pytest.mark.parametrize('name', mostly_quick(NETWORKS, DEEP))
def test_two_derivatives_agree_with_finite_differences(name):
  """The loss's first and second, along a line in params and clips.

  Softplus, for ReLU has kinks (a frozen extractor keeps them); float64, but
  attention's softmax is float32 and wants a wide step; XLA's own convolutions,
  for they compile sooner.
  """
  victim = build(name, _clip_shape(name), K, preset='tiny', lowering='lax',
                 activation='softplus')
  _, params, clips, labels = _case(name)
  rng = np.random.default_rng(1)
  step = 1e-3 if name in ('timesformer', 'videomae', 'vivit') else 1e-6

  with jax.enable_x64(True):
    point = jax.tree.map(lambda x: np.asarray(x, np.float64), (params, clips))
    line = jax.tree.map(lambda x: 0.1 * rng.normal(size=x.shape), point)
    if 'batch_stats' in params:  # constants, by contract
      line[0]['batch_stats'] = jax.tree.map(np.zeros_like,
                                            params['batch_stats'])

    def along(t):
      moved = jax.tree.map(lambda x, d: x + t * d, point, line)
      loss, grads = jax.value_and_grad(
          lambda at: victim.loss(*at, labels))(moved)
      slopes = jax.tree.map(jnp.vdot, grads, line)
      return jnp.array([loss, sum(jax.tree.leaves(slopes))])

    both = jax.jit(lambda t: jax.jvp(along, (t,), (jnp.ones(()),)))
    low, middle, high = (jax.device_get(both(t)) for t in (-step, 0.0, step))
  (_, slope), (slope_forward, curvature) = middle
  differences = (high[0] - low[0]) / (2 * step)
  assert abs(slope) > 1e-4 and abs(curvature) > 1e-5
  np.testing.assert_allclose(slope_forward, slope, rtol=1e-5)
  np.testing.assert_allclose(differences, [slope, curvature], rtol=2e-3)


def test_every_published_network_has_names_of_its_weights():
  without = {name for name, network in NETWORKS.items() if not network.names}
  # one was never published with weights, one reads its extractor's itself
  assert without == {'lenet', 'frozen'}


@pytest.mark.parametrize('name', sorted(set(NETWORKS) - {'lenet'}))
def test_the_published_size_has_its_shapes(name):
  """Shapes alone: they cost no memory."""
  shape = (16, 64, 64, 3)
  options = {'extractor': 'resnet_tiny'} if name == 'frozen' else {}
  victim = build(name, shape, K, preset='full', **options)
  params = jax.eval_shape(victim.init, jax.random.key(0))
  clips = jax.ShapeDtypeStruct((B, *shape), jnp.float32)
  assert jax.eval_shape(victim.logits, params, clips).shape == (B, K)


@pytest.mark.parametrize('options, message', [
    ({'activation': 'swish'}, 'activation'),
    ({'norm': 'instance'}, 'norm'),
    ({'preset': 'huge'}, 'preset of vivit'),
    ({'pool': 'max'}, 'pooling'),
    ({'cell': 'gru'}, "no option 'cell'"),
])
def test_wrong_options_say_what_is_allowed(options, message):
  with pytest.raises(UserError, match=message):
    build('vivit', (4, 16, 16, 3), K, **{'preset': 'tiny'} | options)


def test_clips_that_do_not_fit_say_so():
  with pytest.raises(UserError, match='not tiled by'):
    build('vivit', (3, 16, 16, 3), K, preset='tiny')
  with pytest.raises(UserError, match='pools clips 16-fold'):
    build('c3d', (8, 64, 64, 3), K, preset='full')
