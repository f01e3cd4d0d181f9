"""Equal blocks as a loop: the same network, in a smaller program."""

import importlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidleak_jax import victims
from vidleak_jax.attacks.matching import match
from vidleak_jax.models import repeat
from vidleak_jax.models.layers import plain_layers
from vidleak_jax.models.transformer import Size
from vidleak_jax.types import Guess, Target

SHAPE = (2, 4, 4, 3)
DEPTH = 3


@pytest.fixture(autouse=True)
def few_blocks_are_a_loop(monkeypatch):
  monkeypatch.setattr(repeat, '_WORTH_IT', DEPTH)


@pytest.fixture(params=['timesformer', 'videomae', 'vivit'])
def victim(request, monkeypatch):
  file = importlib.import_module(f'vidleak_jax.victims.{request.param}')
  frames = 1 if request.param == 'timesformer' else 2
  monkeypatch.setitem(file.PRESETS, 'deep', Size(
      (frames, 2, 2), width=4, depth=DEPTH, heads=2, mlp=4))
  return victims.NETWORKS[request.param].make(SHAPE, 3, preset='deep')


@pytest.fixture
def params(victim):
  shapes = jax.eval_shape(victim.init, jax.random.key(0))
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda s: jnp.asarray(
      0.5 * rng.normal(size=s.shape), jnp.float32), shapes)


def test_logits_are_those_of_single_blocks(victim, params):
  clips = jnp.asarray(
      np.random.default_rng(1).uniform(size=(2, *SHAPE)), jnp.float32)
  looped = jax.jit(lambda *args: victim.logits(*args))
  found, text = looped(params, clips), looped.lower(params, clips).as_text()
  with plain_layers():
    single = jax.jit(lambda *args: victim.logits(*args))
    wanted, long = (single(params, clips),
                    single.lower(params, clips).as_text())
  assert 'while' in text and 'while' not in long
  assert text.count('\n') < 0.8 * long.count('\n')
  np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


class Square(nn.Module):

  @nn.compact
  def __call__(self, x, y):
    return nn.tanh(nn.Dense(x.shape[-1], name='in')(x)) + y, x * y


class Row(nn.Module):
  """Some blocks of two inputs."""

  @nn.compact
  def __call__(self, clips):
    x = clips.reshape(len(clips), -1)
    return sum(repeat.repeat(self, Square, DEPTH, x, x + 1))


@pytest.mark.slow
def test_a_match_and_its_slope_are_those_of_single_blocks():
  module, clips = Row(), jnp.linspace(-1, 1, 6).reshape(1, 6)
  params = module.init(jax.random.key(0), clips)['params']
  update = jax.tree.map(lambda p: jnp.cos(jnp.arange(p.size, dtype=float)
                                          ).reshape(p.shape), params)

  def slope(**options):
    term = match.gradient_match(lambda params, clips, labels: jnp.sum(
        module.apply({'params': params}, clips) ** 2), match.relative_l2,
                                **options)
    return jax.jit(jax.value_and_grad(lambda clips: term(
        Guess(clips, jnp.array([1])), Target(params, update))))(clips)

  packed = repeat.stacked(params)
  assert jax.tree.map(jnp.shape, packed) == {
      'blocks': {'in': {'kernel': (DEPTH, 6, 6), 'bias': (DEPTH, 6)}}}
  with plain_layers():
    wanted = slope()
  for found in (slope(), slope(pack=repeat.stacked)):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5),
                 found, wanted)
  assert np.abs(wanted[1]).max() > 0


def test_the_tree_and_the_layer_graph_have_every_block(victim):
  params = jax.eval_shape(victim.init, jax.random.key(0))
  own = params.get('encoder', params)
  assert {f'block{i}' for i in range(DEPTH)} <= own.keys()
  seen = {path for node in victim.graph.nodes for path in node.paths}
  for i in range(DEPTH):
    assert any(f'block{i}' in path for path in seen)


def test_few_blocks_are_no_loop():
  victim = victims.build('vivit', (2, 8, 8, 3), 3, preset='tiny')
  params = jax.eval_shape(victim.init, jax.random.key(0))
  clips = jax.ShapeDtypeStruct((1, 2, 8, 8, 3), jnp.float32)
  assert 'scan' not in str(jax.make_jaxpr(victim.logits)(params, clips))
