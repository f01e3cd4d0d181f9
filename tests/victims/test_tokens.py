import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.victims.networks import CLIP, of, zoo
from vidleak_jax import victims
from vidleak_jax.types import UserError
from vidleak_jax.victims.introspection import tokens, tracing
from vidleak_jax.victims.introspection.graph import run
from vidleak_jax.victims.introspection.identifiability import (
  as_text,
  identifiability,
)
from vidleak_jax.victims.introspection.planner import introspect


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
