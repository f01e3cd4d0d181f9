"""Networks to look into, with parameters that are neither 0 nor 1."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from vidleak_jax import victims
from vidleak_jax.victims.introspection.graph import evaluate
from vidleak_jax.victims.introspection.planner import introspect

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
  params = moved(jax.eval_shape(victim.init, jax.random.key(0)))
  return victim.logits, params, introspect(victim.logits, params, shape)


def moved(shapes):
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
  variables = moved(jax.eval_shape(
      module.init, jax.random.key(seed), jnp.zeros((1, *shape))))

  def logits(params, clips):
    return module.apply(params, clips)
  return logits, variables, introspect(logits, variables, shape)
