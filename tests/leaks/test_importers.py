"""Real updates by their own names become leaks, in whatever they come."""

import io
import types

import flax.serialization
import jax
import numpy as np
import pytest
from orbax import checkpoint as ocp

import vidleak_jax as vl
from tests.helpers import REFERENCES
from vidleak_jax import trees
from vidleak_jax.leaks import importers, reading
from vidleak_jax.models import weights
from vidleak_jax.specs import FederatedSpec

SHAPE = 4, 16, 16, 3
CASES = {  # reference -> victim and its options
    'c3d': ('c3d', {'preset': 'tiny_pooled'}),
    'cnn_gru': ('cnn_gru', {}), 'cnn_lstm': ('cnn_gru', {'cell': 'lstm'}),
    'r2plus1d18': ('r2plus1d18', {}), 'r3d18': ('r3d18', {}),
    'timesformer': ('timesformer', {}), 'videomae': ('videomae', {}),
    'vivit': ('vivit', {})}


def reference(name):
  """(victim, weights, gradient) as the framework names them."""
  network, options = CASES[name]
  victim = vl.victims.build(network, SHAPE, 5, **{'preset': 'tiny', **options})
  with np.load(REFERENCES / f'{name}.npz') as archive:
    content = dict(archive)
  return victim, *({key.partition(':')[2]: value
                    for key, value in content.items()
                    if key.startswith(group)} for group in ('weight', 'grad'))


def same(one, other):
  jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.fixture(scope='module')
def r3d18():
  return reference('r3d18')


@pytest.fixture(scope='module')
def right(r3d18):
  victim, before, gradient = r3d18
  return vl.leaks.from_arrays(victim, before, gradient=gradient)


@pytest.mark.parametrize('name', CASES)
def test_gradients_map_as_the_weights_do(name):
  victim, before, gradient = reference(name)
  leak = vl.leaks.from_arrays(victim, before, gradient=gradient, batch_size=2)
  names = vl.victims.NETWORKS[victim.spec.name].names
  shapes = jax.eval_shape(victim.init, jax.random.key(0))
  expected, report = weights.fill(shapes, before, names)
  assert not report.missing
  same(leak.params, expected)
  zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
  expected, _ = weights.fill(zeros, gradient, names)
  same(jax.tree.map(lambda leaf: leaf[0], leak.update), expected)
  assert leak.public.federated == FederatedSpec(message='batch')
  assert leak.public.defense is None


def test_a_weight_change_points_uphill(r3d18, right):
  victim, before, gradient = r3d18
  after = {key: value - np.float32(0.5) * gradient.get(key, 0)
           for key, value in before.items()}
  change = {key: after[key] - before[key] for key in gradient}
  for options in ({'after': after}, {'difference': change}):
    leak = vl.leaks.from_arrays(victim, before, **options)
    assert leak.public.federated.algorithm == 'fedavg'
    jax.tree.map(lambda u, g: np.testing.assert_allclose(u, g / 2, atol=1e-6),
                 leak.update, right.update)


def test_running_statistics_are_no_part_of_the_update(r3d18):
  victim, before, _ = r3d18
  after = {key: value + 1 for key, value in before.items()}
  leak = vl.leaks.from_arrays(victim, before, after=after)
  assert not any(map(np.any, jax.tree.leaves(leak.update['batch_stats'])))


def flower_parameters(arrays):
  """As Flower's `Parameters`: each array in NumPy's own format."""
  tensors = []
  for array in arrays:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    tensors.append(buffer.getvalue())
  return types.SimpleNamespace(tensors=tensors, tensor_type='numpy.ndarray')


def test_flower_lists_are_read_in_the_order_of_the_layers(r3d18, right):
  victim, before, _ = r3d18
  listed = []
  for key, value in before.items():
    listed.append(value)
    if key.endswith('running_var'):
      listed.append(np.array(7))  # torch counts batches
  moved = [value + np.float32(1) for value in listed]
  names = [name for key in before for name in (
      [key, key.replace('running_var', 'num_batches_tracked')]
      if key.endswith('running_var') else [key])]
  for options in ({}, {'names': names}):
    leak = vl.leaks.from_flower(
        victim, flower_parameters(listed), flower_parameters(moved), **options)
    same(leak.params, right.params)
    np.testing.assert_allclose(leak.update['head']['bias'], -1, atol=1e-6)
  tree = jax.tree.leaves(right.params)
  same(vl.leaks.from_flower(victim, tree, tree).params, right.params)
  with pytest.raises(vl.UserError, match='Give their names'):
    vl.leaks.from_flower(victim, listed[1:], listed[1:])


def test_wrapped_names_and_trees_are_found(r3d18, right):
  victim, before, gradient = r3d18
  wrapped = {f'module.{key}': value for key, value in before.items()}
  for content in ({'state_dict': wrapped}, right.params,
                  trees.flatten(right.params)):
    leak = vl.leaks.from_arrays(victim, content, gradient=gradient)
    same(leak.params, right.params)


def test_what_has_no_place_is_listed(r3d18):
  victim, before, gradient = r3d18
  with pytest.raises(vl.UserError, match=r'lack 1 of .* head/bias \(5,\)'):
    vl.leaks.from_arrays(victim, {
        key: value for key, value in before.items() if key != 'fc.bias'},
        gradient=gradient)
  wide = before | {'fc.weight': np.ones((9, 8), np.float32)}
  with pytest.raises(vl.UserError, match=r'fc.weight \(9, 8\): head/kernel'):
    vl.leaks.from_arrays(victim, wide, gradient=gradient)
  with pytest.raises(vl.UserError, match='Give one of gradient, after'):
    vl.leaks.from_arrays(victim, before)
  found, _ = importers.mapped(victim, before | {'extra.weight': np.ones(3)})
  assert found.unmatched == ('extra.weight (3,)',)


def test_every_kind_of_file_is_read(r3d18, right, tmp_path):
  _, before, _ = r3d18
  np.savez(tmp_path / 'w.npz', **before)
  weights.save(tmp_path / 'w.safetensors', right.params)
  (tmp_path / 'w.msgpack').write_bytes(flax.serialization.msgpack_serialize(
      jax.tree.map(np.asarray, right.params)))
  ocp.PyTreeCheckpointer().save(tmp_path / 'orbax', right.params)
  assert set(reading.read(tmp_path / 'w.npz')) == set(before)
  for name in ('w.safetensors', 'w.msgpack', 'orbax'):
    same(trees.nest(reading.read(tmp_path / name)), right.params)
  (tmp_path / 'w.safetensors').write_bytes(b'torn')
  with pytest.raises(vl.UserError, match='torn'):
    reading.read(tmp_path / 'w.safetensors')
  with pytest.raises(vl.UserError, match='no known kind'):
    reading.read(__file__)


def test_torch_is_read_without_pickles(r3d18, right, tmp_path):
  torch = pytest.importorskip('torch')
  victim, before, gradient = r3d18
  state = {key: torch.tensor(value) for key, value in before.items()}
  torch.save({'state_dict': state}, tmp_path / 'w.pt')
  same(reading.read(tmp_path / 'w.pt'), before)
  leak = vl.leaks.from_torch(victim, state, gradient={
      key: torch.tensor(value) for key, value in gradient.items()})
  same(leak.update, right.update)
