"""Victims answer as the implementations that others wrote and people use."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import REFERENCES, mostly_quick
from vidleak_jax import victims
from vidleak_jax.models import resnet, weights
from vidleak_jax.types import UserError
from vidleak_jax.victims import base
from vidleak_jax.victims.frozen import EXTRACTORS
from vidleak_jax.victims.frozen import NAMES as RESNET_NAMES

CASES = {  # reference -> victim and its options
    'c3d': ('c3d', {'preset': 'tiny_pooled'}),
    'cnn_gru': ('cnn_gru', {}),
    'cnn_lstm': ('cnn_gru', {'cell': 'lstm'}),
    'r2plus1d18': ('r2plus1d18', {}),
    'r3d18': ('r3d18', {}),
    'r3d18_batch': ('r3d18', {'norm': 'batch'}),
    'timesformer': ('timesformer', {}),
    'videomae': ('videomae', {}),
    'vivit': ('vivit', {}),
}
DEEP = {'r2plus1d18', 'r3d18_batch', 'timesformer', 'videomae'}
TORCH_LAYERS = (  # of torch's TransformerEncoder
    (r'layers\.(\d+)\.', r'block\1.'),
    (r'self_attn', 'attention'),
    (r'out_proj', 'out'),
    (r'linear1', 'mlp.in'),
    (r'linear2', 'mlp.out'),
)
RESNETS = {  # reference -> size of the network on frames
    'resnet_basic': resnet.Size((7, 7), (2, 2), 4, (4, 8), (1, 2), pool=True),
    'resnet_bottleneck': resnet.Size((7, 7), (2, 2), 4, (8, 16), (1, 2),
                                     pool=True, bottleneck=True),
    'resnet_cifar': EXTRACTORS['resnet_tiny'],
}


def _read(name):
  with np.load(REFERENCES / f'{name}.npz') as archive:
    arrays = dict(archive)
  groups = {'weight': {}, 'grad': {}}
  for key, array in arrays.items():
    group, _, rest = key.partition(':')
    groups.get(group, {})[rest] = array
  return arrays, groups['weight'], groups['grad']


@functools.cache
def _build(name, clip_shape=(4, 16, 16, 3), preset='tiny', **options):
  return victims.build(name, clip_shape, 5, preset=preset, **options)


def _shapes(victim):
  return jax.eval_shape(victim.init, jax.random.key(0))


@pytest.mark.parametrize('case', mostly_quick(CASES, DEEP))
def test_outputs_and_gradients_equal_the_reference(case):
  arrays, *_ = _read(case)
  name, options = CASES[case]
  victim = _build(name, arrays['clips'].shape[1:], **options)
  _check(case, victim, victims.NETWORKS[name].names)


@pytest.mark.slow
def test_the_factorised_encoder_equals_torch_layers():
  _check('vivit_factorised', _build('vivit', encoder='factorised'),
         TORCH_LAYERS)


@pytest.mark.parametrize('case', mostly_quick(RESNETS, ['resnet_bottleneck']))
def test_networks_on_frames_equal_the_reference(case):
  arrays, *_ = _read(case)
  style = resnet.Style('relu', 'fixed', 'matmul')
  module = resnet.ResNet(RESNETS[case], style, 5)
  _check(case, base.from_module(module, arrays['clips'].shape[1:], 5),
         RESNET_NAMES)


def _check(case, victim, names):
  arrays, tensors, gradients = _read(case)
  params, report = weights.fill(_shapes(victim), tensors, names)
  assert not report.missing and not report.unused
  zeros = jax.tree.map(jnp.zeros_like, params)
  expected, _ = weights.fill(zeros, gradients, names)

  @jax.jit
  def answer(params, clips, labels):
    grads = jax.grad(victim.loss)(params, clips, labels)
    return victim.logits(params, clips), grads

  logits, grads = answer(params, arrays['clips'], arrays['labels'])
  np.testing.assert_allclose(logits, arrays['logits'], rtol=1e-4, atol=1e-4)
  jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
      grads, expected)


def test_what_is_not_loaded_is_reported():
  _, tensors, _ = _read('vivit')
  victim = _build('vivit')
  before = victim.init(jax.random.key(0))
  tensors = {k: v for k, v in tensors.items() if 'layernorm' not in k}
  tensors['decoder.weight'] = np.zeros((2, 2), np.float32)
  after, report = weights.fill(before, tensors, victims.NETWORKS['vivit'].names,
                               skip=('head',))
  assert 'encoder/norm/scale' in report.missing
  assert set(report.unused) == {
      'decoder.weight', 'classifier.weight', 'classifier.bias'}
  assert 'embed/kernel' in report.loaded
  np.testing.assert_array_equal(after['head']['kernel'],
                                before['head']['kernel'])


def test_a_shape_that_does_not_fit_says_so():
  _, tensors, _ = _read('vivit')
  victim = victims.build('vivit', (4, 16, 16, 3), 7, preset='tiny')
  with pytest.raises(UserError, match=r"classifier.*\(16, 5\).*\(16, 7\)"):
    weights.fill(_shapes(victim), tensors, victims.NETWORKS['vivit'].names)


def test_a_foreign_file_is_refused():
  with pytest.raises(UserError, match='None of the 1 tensors fits'):
    weights.fill(_shapes(_build('vivit')), {'a.weight': np.zeros(3)}, ())


@pytest.mark.parametrize('suffix', ['.safetensors', '.npz'])
def test_own_params_come_back_from_a_file(tmp_path, suffix):
  params = _build('vivit').init(jax.random.key(1))
  flat = {'/'.join(e.key for e in path): np.asarray(leaf) for path, leaf
          in jax.tree_util.tree_flatten_with_path(params)[0]}
  np.savez(tmp_path / 'a.npz', **flat)
  weights.convert(tmp_path / 'a.npz', tmp_path / 'a.safetensors')
  zeros = jax.tree.map(jnp.zeros_like, params)
  loaded, report = weights.load(zeros, tmp_path / f'a{suffix}', ())
  assert not report.missing and not report.unused
  jax.tree.map(np.testing.assert_array_equal, loaded, params)


def test_a_torch_file_without_torch_says_what_to_do(tmp_path, monkeypatch):
  monkeypatch.setitem(__import__('sys').modules, 'torch', None)
  (tmp_path / 'a.th').write_bytes(b'')
  with pytest.raises(UserError, match=r'vidleak_jax\[torch\]'):
    weights.read(tmp_path / 'a.th')


def test_unknown_files_say_what_is_allowed(tmp_path):
  with pytest.raises(UserError, match='no weights file'):
    weights.read(tmp_path / 'missing.npz')
  (tmp_path / 'a.pkl').write_bytes(b'')
  with pytest.raises(UserError, match=r"got 'a.pkl'"):
    weights.read(tmp_path / 'a.pkl')
