"""Chains with max pooling: from the last kernel down, without any masks."""

import dataclasses

import jax
import numpy as np
import pytest

import vidleak_jax as vl
from tests.attacks.analytic.test_peeling import psnr, smooth_clip
from vidleak_jax import trees
from vidleak_jax.attacks.analytic.peeling import chain, pooling
from vidleak_jax.attacks.analytic.peeling.attack import Peeling
from vidleak_jax.attacks.base import Problem
from vidleak_jax.models import c3d_full
from vidleak_jax.runtime.session import session
from vidleak_jax.types import UserError, Victim
from vidleak_jax.victims.introspection.graph import run
from vidleak_jax.victims.introspection.tracing import leaves_of

SHAPE = (4, 16, 16, 3)
CLIP = smooth_clip(shape=SHAPE)


def pooled_network(stages=((32,), (24, 24), (80, 80)), activation='relu',
                   norm='none', shape=SHAPE):
  size = c3d_full.Size(stages, 24)
  return Victim.from_flax(
      c3d_full.C3d(size, 5, activation, norm, 'unit', 'lax'), shape, 5)


@pytest.fixture(scope='module')
def problem():
  victim = pooled_network()
  leak = vl.observe(victim, victim.init(jax.random.key(0)), CLIP, [3])
  return Problem(victim, leak, jax.random.key(1), session())


def double(problem):
  leak = problem.leak
  return (trees.to_float64(leaves_of(leak.params)), {
      path: leaf[0] for path, leaf in trees.to_float64(
          leaves_of(leak.update)).items()})


def test_inputs_are_found_through_poolings(problem, tmp_path):
  network = chain.chain_of(problem.victim.graph)
  assert [link.unit.name for link in network.links] == [
      'conv3_1', 'conv3_0', 'conv2_1', 'conv2_0']
  assert [link.windows is None for link in network.links] == [
      True, True, False, True]
  heard = []
  part, rows = chain.peel(session(
      folder=tmp_path, report=lambda *what, **_: heard.append(what)),
                          network, *double(problem), 'update0')
  assert all(row.residual < 1e-5 for row in rows)
  assert heard[-1] == ('layer peeling', 4, 5)
  fact, = part.facts
  assert fact.node == network.bottom
  truth = np.asarray(run(problem.victim.graph, leaves_of(
      problem.leak.params), CLIP)[fact.node]).reshape(fact.value.shape)
  error = np.abs(fact.value - truth)[fact.known].max()
  assert error < 1e-4 * truth.max() and fact.known.mean() > 0.5
  stored = tmp_path / 'update0' / 'layer3.npz'
  before = stored.stat().st_mtime_ns
  again, _ = chain.peel(
      session(folder=tmp_path), network, *double(problem), 'update0')
  np.testing.assert_array_equal(again.facts[0].value, fact.value)
  assert stored.stat().st_mtime_ns == before


def test_the_clip_comes_back(problem):
  attack = Peeling(inner_steps=40)
  assert attack.requires(problem.victim, problem.leak) == []
  found = attack.solve(problem)
  assert psnr(found.clips[0, 0], CLIP[0]) > 50
  np.testing.assert_array_equal(found.labels, [[3]])


def test_a_wrong_gradient_is_not_explained(problem, monkeypatch):
  monkeypatch.setattr(pooling, '_ROUNDS', 8)
  network = chain.chain_of(problem.victim.graph)
  leaves, update = double(problem)
  path = network.links[2].unit.conv.kernel_path
  noise = np.random.default_rng(0).normal(size=update[path].shape)
  update[path] = update[path] + 0.3 * np.std(update[path]) * noise
  with pytest.raises(UserError, match='conv2_1'):
    chain.peel(session(), network, leaves, update, 'update0')


@pytest.mark.parametrize('network, message', [
    (dict(stages=((32,), (24, 24), (16, 16))), '32 positions'),
    (dict(norm='batch'), 'norm of the data'),
    (dict(stages=((8,), (24, 24), (80, 80))), 'too few'),
])
def test_what_does_not_suffice_is_refused(network, message):
  victim = pooled_network(**network)
  leak = vl.observe(victim, victim.init(jax.random.key(0)), CLIP, [3])
  assert message in '; '.join(Peeling().requires(victim, leak))


def test_batches_are_refused(problem):
  with pytest.raises(UserError, match='no residual blocks'):
    chain.read(problem.victim.graph, 2)


def test_windows_leave_out_what_is_padding():
  network = chain.chain_of(pooled_network().graph)
  geometry = network.links[0].unit.geometry  # 2x4x4, pooled with a border
  pool = next(node.op for node in network.graph.nodes if node.name == 'pool#3')
  windows = pooling.windows_of(pool, geometry)
  assert windows.shape == (9, 8)
  inside = windows[windows < geometry.num_out]
  np.testing.assert_array_equal(np.sort(inside), np.arange(32))
  first = dataclasses.replace(pool, **{
      name: (values[0], values[-1], *values[1:-1])
      for name in ('window', 'strides', 'padding')
      for values in [getattr(pool, name)]})
  assert pooling.windows_of(first, geometry) is None  # channels are pooled
  np.testing.assert_array_equal(
      pooling.windows_of(first, geometry, -4), windows)
