import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.helpers import mostly_quick
from tests.victims.networks import CLIP, ZOO, agree, moved, of, zoo
from vidleak_jax import victims
from vidleak_jax.types import UserError
from vidleak_jax.victims.introspection import structure
from vidleak_jax.victims.introspection.graph import evaluate, with_lowering
from vidleak_jax.victims.introspection.planner import discrepancy, introspect


@pytest.mark.parametrize('name', mostly_quick(
    ZOO, ['r2plus1d18', 'timesformer', 'vivit_factorised']))
def test_graph_and_network_agree(name):
  logits, params, graph = zoo(name)
  agree(logits, params, graph)
  kinds = {node.kind for node in graph.nodes}
  assert 'opaque' not in kinds and 'softmax' not in kinds
  assert not [n for n in graph.unsupported if 'not known' in n]


@pytest.mark.parametrize('name', ['c3d_pooled', 'vivit'])
def test_gradients_agree_too(name):
  logits, params, graph = zoo(name)
  fast = with_lowering(graph, 'matmul')
  clips = np.random.default_rng(1).uniform(size=(1, *CLIP)).astype(np.float32)

  def slopes(function):
    return jax.grad(lambda *args: function(*args)[0, 2], argnums=(0, 1))(
        params, clips)
  expected, found = jax.device_get(jax.jit(lambda: (
      slopes(logits), slopes(functools.partial(evaluate, fast))))())
  for one, other in zip(*map(jax.tree.leaves, (expected, found))):
    np.testing.assert_allclose(
        other, one, atol=1e-5 * max(np.abs(one).max(), 1e-3), rtol=0)


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


def test_layers_have_channels_last_where_the_network_has_them_first():
  """As networks that come from torch."""
  rng = np.random.default_rng(0)

  def weights(*shape):
    return jnp.asarray(rng.normal(size=shape) / 4, jnp.float32)
  params = {
      'a': {'kernel': weights(3, 3, 3, 3, 4), 'bias': weights(4)},
      'b': {'kernel': weights(3, 3, 3, 4, 6), 'bias': weights(6)},
      'c': {'kernel': weights(6 * 2 * 4 * 4, 5), 'bias': weights(5)}}

  def logits(params, clips, last=True):
    x = jnp.moveaxis(clips, -1, 1)
    for name, strides in (('a', (1, 2, 2)), ('b', (2, 2, 2))):
      x = jax.lax.conv_general_dilated(
          x, jnp.moveaxis(params[name]['kernel'], (-1, -2), (0, 1)), strides,
          'SAME', dimension_numbers=('NCDHW', 'OIDHW', 'NCDHW'))
      x = nn.tanh(x + params[name]['bias'][:, None, None, None])
    x = (jnp.moveaxis(x, 1, -1) if last else x).reshape(len(x), -1)
    return x @ params['c']['kernel'] + params['c']['bias']

  shapes = jax.eval_shape(lambda: params)
  with pytest.raises(UserError, match='channels first'):
    structure.layers(introspect(functools.partial(logits, last=False), shapes,
                                (4, 16, 16, 3)))
  found = structure.layers(introspect(logits, shapes, (4, 16, 16, 3)))
  assert [layer.in_shape for layer in found] == [
      (4, 16, 16, 3), (4, 8, 8, 4), (2, 4, 4, 6)]
  clips = rng.uniform(size=(1, 4, 16, 16, 3)).astype(np.float32)
  x = clips
  for layer in found:
    own = params[layer.name]
    x = layer.activate(layer.linear(own['kernel'], x) + own['bias'])
  np.testing.assert_allclose(x, logits(params, clips), atol=1e-5)


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
  agree(logits, params, with_lowering(graph, 'matmul'), batch_size)
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
  params = moved(jax.tree.map(
      lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32), shapes,
      is_leaf=lambda x: isinstance(x, tuple)))
  graph = introspect(plain, params, CLIP)
  agree(plain, params, graph)
  agree(plain, params, with_lowering(graph, 'matmul'))
  norm, = graph.of_kind('norm')
  assert (norm.op.form, norm.op.channel_axis, norm.op.eps) == ('batch', 1, 1e-4)
  assert (norm.op.scale, norm.op.bias) == (('layers', '0', 'gain'), None)
  assert [n.op.slope for n in graph.of_kind('activation')] == [0.1]
  assert graph.head.bias == ('layers', '1', 'b')
  assert graph.by_name['layers/0'].op.bias_path == ('layers', '0', 'b')


def test_what_an_attack_must_know_is_told():
  def logits(params, clips):
    x = clips.reshape(len(clips), -1)[:, :8]
    x = jnp.sort(jnp.tanh(x @ params['w']) @ params['w'], axis=-1)
    return jax.nn.log_softmax(x @ params['head'])

  params = moved({
      'w': jax.ShapeDtypeStruct((8, 8), jnp.float32),
      'head': jax.ShapeDtypeStruct((8, 5), jnp.float32),
      'phase': jax.ShapeDtypeStruct((3,), jnp.complex64)})
  graph = introspect(logits, params | {'phase': np.ones(3, np.complex64)}, CLIP)
  assert discrepancy(graph, logits, params, jax.random.key(0)) < 1e-6
  notes = '; '.join(graph.unsupported)
  for note in ('parameter phase is complex', 'kernel w is shared by 2 layers',
               'not from a dense layer', 'sort is not understood'):
    assert note in notes
  assert graph.head is None
