import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vidleak_jax import victims
from vidleak_jax.types import UserError
from vidleak_jax.victims import structure, tokens, tracing
from vidleak_jax.victims.graph import evaluate, run
from vidleak_jax.victims.identifiability import as_text, identifiability
from vidleak_jax.victims.introspection import introspect

CLIP = 4, 16, 16, 3
ZOO = {
    'c3d': ('c3d', CLIP, {'preset': 'tiny'}),
    'c3d_matmul': ('c3d', CLIP, {'preset': 'tiny', 'lowering': 'matmul'}),
    'c3d_pooled': ('c3d', CLIP, {'preset': 'tiny_pooled', 'norm': 'fixed',
                                 'inputs': 'half'}),
    'lenet': ('lenet', (1, 16, 16, 3), {'preset': 'tiny'}),
    'cnn_gru': ('cnn_gru', CLIP, {'preset': 'tiny'}),
    'cnn_lstm': ('cnn_gru', CLIP, {'preset': 'tiny', 'cell': 'lstm',
                                   'norm': 'layer'}),
    'r2plus1d18': ('r2plus1d18', CLIP, {'preset': 'tiny', 'norm': 'group',
                                        'inputs': 'kinetics'}),
    'vivit': ('vivit', CLIP, {'preset': 'tiny'}),
    'vivit_factorised': ('vivit', CLIP, {
        'preset': 'tiny', 'encoder': 'factorised', 'pool': 'mean',
        'inputs': 'half'}),
    'timesformer': ('timesformer', CLIP, {'preset': 'tiny'}),
    'videomae': ('videomae', CLIP, {'preset': 'tiny', 'inputs': 'imagenet'}),
    'frozen': ('frozen', CLIP, {'preset': 'tiny'}),
    'frozen_gru': ('frozen', CLIP, {'preset': 'tiny', 'head': 'gru'}),
    'frozen_thawed': ('frozen', CLIP, {'preset': 'tiny', 'norm': 'batch'}),
} | {f'r3d18_{norm}': ('r3d18', CLIP, {'preset': 'tiny', 'norm': norm})
     for norm in ('fixed', 'batch', 'group', 'layer', 'none')}


@functools.cache
def zoo(name):
  """(logits, params, graph) of a victim; no parameter keeps its first value."""
  network, shape, options = ZOO[name]
  lowering = {} if network in ('vivit', 'timesformer', 'videomae') else {
      'lowering': 'lax'}
  victim = victims.build(network, shape, 7, **lowering | options)
  params = _moved(jax.eval_shape(victim.init, jax.random.key(0)))
  return victim.logits, params, introspect(victim.logits, params, shape)


def _moved(shapes):
  """Parameters and variances that are neither 0 nor 1."""
  random = np.random.default_rng(0)

  def draw(leaf):
    fan_in = max(np.prod(leaf.shape[:-1]), 1) if len(leaf.shape) > 1 else 25
    low = 0.5 if len(leaf.shape) == 1 else 0.0
    return (low + random.normal(size=leaf.shape) / fan_in ** 0.5).clip(
        *((0.1, 2) if low else (None, None))).astype(np.float32)
  return jax.tree.map(draw, shapes)


def agree(logits, params, graph, batch_size=1):
  clips = np.random.default_rng(1).uniform(
      size=(batch_size, *graph.clip_shape)).astype(np.float32)
  expected, found = jax.device_get(jax.jit(lambda *args: (
      logits(*args), evaluate(graph, *args)))(params, clips))
  np.testing.assert_allclose(
      found, expected, atol=1e-5 * np.abs(expected).max(), rtol=0)
  assert np.ptp(expected) > 1e-3


def of(module, shape=CLIP, seed=0):
  """(logits, params, graph) of a linen module."""
  variables = _moved(jax.eval_shape(
      module.init, jax.random.key(seed), jnp.zeros((1, *shape))))

  def logits(params, clips):
    return module.apply(params, clips)
  return logits, variables, introspect(logits, variables, shape)


@pytest.mark.parametrize('name', ZOO)
def test_graph_and_network_agree(name):
  logits, params, graph = zoo(name)
  agree(logits, params, graph)
  kinds = {node.kind for node in graph.nodes}
  assert 'opaque' not in kinds and 'softmax' not in kinds
  assert not [n for n in graph.unsupported if 'not known' in n]


@pytest.mark.parametrize('form', ['fixed', 'batch', 'group', 'layer'])
def test_norms_are_told_apart(form):
  graph = zoo(f'r3d18_{form}')[2]
  norms = graph.of_kind('norm')
  assert len(norms) == 12 and {n.op.form for n in norms} == {form}
  assert {n.op.eps for n in norms} == {1e-5}
  first = norms[0].op
  assert (first.scale, first.bias) == (
      ('stem', 'norm', 'scale'), ('stem', 'norm', 'bias'))
  if form == 'fixed':
    assert first.mean == ('batch_stats', 'stem', 'norm', 'mean')
    assert first.var == ('batch_stats', 'stem', 'norm', 'var')
  assert any('statistics of the batch' in note
             for note in graph.unsupported) == (form == 'batch')


def test_residual_blocks_of_r3d18():
  graph = zoo('r3d18_fixed')[2]
  found = structure.blocks(graph)
  assert [[u.name for u in block.main] for block in found] == [
      [f'stage{i}_0/unit{j}/conv' for j in (0, 1)] for i in range(4)]
  assert [[u.name for u in block.shortcut] for block in found] == [[]] + [
      [f'stage{i}_0/shortcut/conv'] for i in (1, 2, 3)]
  assert [u.name for u in structure.stem(graph)] == ['stem/conv']
  assert [u.name for u in structure.tail(graph)] == ['head']
  assert graph.head.kernel == ('head', 'kernel')
  with pytest.raises(UserError, match='no chain of layers: relu#1 is read by'):
    structure.chain(graph)


def test_chain_gives_the_layers_that_peeling_needs():
  victim = victims.build('c3d', CLIP, 7, preset='tiny', lowering='lax')
  logits, params, graph = zoo('c3d')
  del logits
  x = np.random.default_rng(0).uniform(size=(1, *CLIP)).astype(np.float32)
  found = structure.layers(graph)
  assert [layer.name for layer in found] == ['conv0', 'conv1', 'head']
  for layer, own in zip(found, victim.layers):
    assert (layer.in_shape, layer.activation) == (own.in_shape, own.activation)
    z = [one.linear(params[one.name]['kernel'], x) for one in (layer, own)]
    np.testing.assert_allclose(*z, atol=1e-5)
    x = own.activate(z[1] + params[own.name]['bias'])


class PreActivation(nn.Module):
  """A residual network with norms first, and a shortcut after the first."""

  @nn.compact
  def __call__(self, x):
    x = nn.Conv(6, (3, 3, 3), (1, 2, 2), name='stem')(x)
    for i, (width, stride) in enumerate(((6, 1), (8, 2))):
      y = nn.silu(nn.BatchNorm(True, name=f'norm{i}a')(x))
      if stride > 1:
        x = nn.Conv(width, (1, 1, 1), stride, name=f'shortcut{i}')(y)
      y = nn.Conv(width, (3, 3, 3), stride, use_bias=False, name=f'conv{i}a')(y)
      y = nn.silu(nn.BatchNorm(True, name=f'norm{i}b')(y))
      x = x + nn.Conv(width, (3, 3, 3), name=f'conv{i}b')(y)
    x = nn.relu(nn.BatchNorm(True, name='norm')(x))
    return nn.Dense(5, name='head')(x.mean((1, 2, 3)))


def test_pre_activation_network():
  logits, params, graph = of(PreActivation())
  agree(logits, params, graph)
  identity, projected = structure.blocks(graph)
  assert [u.name for u in identity.main] == ['params/conv0a', 'params/conv0b']
  assert [n.kind for n in identity.main[0].before] == ['norm', 'activation']
  assert identity.shortcut == () and identity.activation is None
  assert [u.name for u in projected.shortcut] == ['params/shortcut1']
  assert {n.op.form for n in graph.of_kind('norm')} == {'fixed'}


class Frames(nn.Module):
  """A 2-D network on each frame with depthwise convolutions, then the mean."""

  @nn.compact
  def __call__(self, clips):
    x = clips.reshape(-1, *clips.shape[2:])
    x = nn.Conv(6, (3, 3), padding='VALID', name='a')(x)
    x = nn.hard_swish(nn.GroupNorm(2, epsilon=1e-3, name='norm')(x))
    x = nn.Conv(6, (3, 3), kernel_dilation=2, feature_group_count=6,
                name='depthwise')(x)
    x = nn.avg_pool(nn.leaky_relu(x, 0.2), (2, 2), (2, 2))
    x = nn.max_pool(nn.elu(x), (3, 3), (2, 2), 'SAME')
    x = x.reshape(*clips.shape[:2], -1)
    return nn.Dense(5, name='head')(jnp.mean(x, axis=1))


@pytest.mark.parametrize('batch_size', [1, 2])
def test_frames_through_a_2d_network(batch_size):
  logits, params, _ = of(Frames())
  graph = introspect(logits, params, CLIP, batch_size)
  agree(logits, params, graph, batch_size)
  assert [u.name for u in structure.chain(graph)] == [
      'params/a', 'params/depthwise', 'params/head']
  depthwise = graph.by_name['params/depthwise'].op
  assert (depthwise.groups, depthwise.dilation) == (6, (2, 2))
  assert [n.op.reduction for n in graph.of_kind('pool')] == ['mean', 'max']
  names = [(n.op.name, n.op.slope) for n in graph.of_kind('activation')]
  assert names == [('hard_swish', None), ('leaky_relu', 0.2), ('elu', None)]
  norm, = graph.of_kind('norm')
  assert (norm.op.form, norm.op.groups, norm.op.eps) == ('group', 2, 1e-3)
  assert norm.shape == (4, 14, 14, 6)


def test_nnx_network():
  class Network(nnx.Module):

    def __init__(self, rngs):
      self.conv = nnx.Conv(3, 4, (3, 3, 3), strides=2, rngs=rngs)
      self.norm = nnx.BatchNorm(4, use_running_average=True, rngs=rngs)
      self.attention = nnx.MultiHeadAttention(
          2, 4, decode=False, rngs=rngs)
      self.head = nnx.Linear(4, 5, rngs=rngs)

    def __call__(self, x):
      x = nnx.relu(self.norm(self.conv(x)))
      x = x.reshape(x.shape[0], -1, 4)
      return self.head(self.attention(x).mean(1))

  definition, state = nnx.split(Network(nnx.Rngs(0)))

  def logits(params, clips):
    return nnx.merge(definition, params)(clips)
  graph = introspect(logits, state, CLIP)
  agree(logits, state, graph)
  norm, = graph.of_kind('norm')
  assert norm.op.var == ('norm', 'var')
  assert len(graph.of_kind('attention')) == 1
  assert graph.head.kernel == ('head', 'kernel')


def plain(params, clips):
  """Channels first, by hand, with every trick that a user may play."""
  x = (clips * 255 - jnp.array([120.0, 110, 100])) / 58
  x = x.transpose(0, 4, 1, 2, 3)
  first, second = params['layers']
  x = jax.lax.conv_general_dilated(
      x, first['w'], (1, 2, 2), [(1, 1)] * 3,
      dimension_numbers=('NCDHW', 'OIDHW', 'NCDHW'))
  x = x + first['b'][:, None, None, None]
  mean = x.mean((0, 2, 3, 4), keepdims=True)
  var = (x ** 2).mean((0, 2, 3, 4), keepdims=True) - mean ** 2
  x = (x - mean) / jnp.sqrt(var + 1e-4)
  x = x * first['gain'][:, None, None, None]
  x = jnp.where(x > 0, x, x * 0.1) * 1.5
  x = x.max((2,)).reshape(len(x), -1)
  x = jnp.einsum('oi,bi->bo', second['w'], x)
  return (x + second['b']) * 2.0 if 'twice' in params else x + second['b']


def test_plain_jax_channels_first():
  shapes = {'layers': [
      {'w': (4, 3, 3, 3, 3), 'b': (4,), 'gain': (4,)},
      {'w': (6, 256), 'b': (6,)}]}
  params = _moved(jax.tree.map(
      lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32), shapes,
      is_leaf=lambda x: isinstance(x, tuple)))
  graph = introspect(plain, params, CLIP)
  agree(plain, params, graph)
  norm, = graph.of_kind('norm')
  assert (norm.op.form, norm.op.channel_axis, norm.op.eps) == ('batch', 1, 1e-4)
  assert (norm.op.scale, norm.op.bias) == (('layers', '0', 'gain'), None)
  assert [n.op.slope for n in graph.of_kind('activation')] == [0.1]
  assert graph.head.bias == ('layers', '1', 'b')
  assert graph.by_name['layers/0'].op.bias_path == ('layers', '0', 'b')


@pytest.mark.parametrize('name', ['vivit', 'vivit_factorised', 'timesformer',
                                  'videomae'])
def test_tokens_are_the_patches_of_the_network(name):
  _, params, graph = zoo(name)
  found = tokens.find(graph)
  clip = np.random.default_rng(0).uniform(size=CLIP).astype(np.float32)
  patches = found.black + found.slope * clip.ravel()[found.order]
  embedded = patches @ found.matrix(params['embed']['kernel'])
  values = jax.jit(functools.partial(run, graph))(
      tracing.leaves_of(params), clip[None])
  np.testing.assert_allclose(
      embedded + params['embed']['bias'],
      np.asarray(values['embed']).reshape(embedded.shape), atol=1e-5)
  np.testing.assert_allclose(
      found.clip_of(patches), clip.ravel(), atol=1e-6)
  own, shared, special = {
      'vivit': (('encoder', 'positions'), (), 1),
      'vivit_factorised': (None, (('space', 'positions'),), 0),
      'timesformer': (None, (('positions',), ('times',)), 0),
      'videomae': (None, (), 0)}[name]
  assert (found.positions, found.shared, found.num_special) == (
      own, shared, special)


class Patches(nn.Module):
  """A convolution as patch embedding, and a special token."""

  @nn.compact
  def __call__(self, x):
    x = nn.Conv(6, (2, 8, 8), (2, 8, 8), 'VALID', name='embed')(x * 2 - 1)
    x = x.reshape(len(x), -1, 6)
    token = self.param('cls', nn.initializers.zeros, (1, 1, 6))
    x = jnp.concatenate([jnp.tile(token, (len(x), 1, 1)), x], 1)
    x = x + self.param('positions', nn.initializers.zeros, (1, 9, 6))
    return nn.Dense(5, name='head')(nn.LayerNorm(name='norm')(x)[:, 0])


def test_tokens_of_a_convolution():
  _, params, graph = of(Patches())
  found = tokens.find(graph)
  clip = np.random.default_rng(0).uniform(size=CLIP).astype(np.float32)
  patches = found.black + found.slope * clip.ravel()[found.order]
  embed = params['params']['embed']
  values = run(graph, tracing.leaves_of(params), clip[None])
  np.testing.assert_allclose(
      patches @ found.matrix(embed['kernel']) + embed['bias'],
      np.asarray(values['params/embed']).reshape(8, 6), atol=1e-5)
  assert found.positions == ('params', 'positions') and found.num_special == 1
  assert found.tokens == 'params/positions'


def test_a_network_without_tokens_says_so():
  with pytest.raises(UserError, match='does not see every pixel once'):
    tokens.find(zoo('c3d')[2])


@pytest.mark.parametrize('network, preset, equations', [
    ('r3d18', 'small', 11.4), ('r3d18', 'full', 45.8),
    ('r2plus1d18', 'small', 6.9), ('r2plus1d18', 'full', 25.7)])
def test_identifiability_of_the_stem(network, preset, equations):
  shape = 8, 32, 32, 3
  victim = victims.build(network, shape, 101, preset=preset, lowering='lax')
  params = jax.eval_shape(victim.init, jax.random.key(0))
  first, *_ = counts = identifiability(introspect(victim.logits, params, shape))
  assert first.positions == 8 * 16 * 16
  assert first.unknowns / first.positions == 12
  assert first.equations / first.positions == pytest.approx(equations, abs=0.05)
  assert first.verdict == ('ample' if preset == 'full' else 'open')
  line = as_text(counts).splitlines()[1].split()
  assert line[1:3] == ['2048', '12'] and line[-1] == first.verdict


def test_a_batch_shares_the_kernels_equations():
  graph = zoo('c3d')[2]
  one, two = (identifiability(graph, n)[0] for n in (1, 2))
  assert two.unknowns == 2 * one.unknowns
  assert two.from_kernel == one.from_kernel == 3 * 3 * 3 * 3 * 8
  assert two.from_outputs == 2 * one.from_outputs == 2 * 4 * 8 * 8 * 8
