"""Generators answer as the ones whose weights people have; discriminators."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.superres.conftest import REFERENCES, read_reference
from vidleak_jax.models import weights as shared_weights
from vidleak_jax.superres import SHIPPED, discriminator, rrdb, weights
from vidleak_jax.types import UserError

CASES = sorted(path.stem for path in REFERENCES.glob('superres_*.npz'))


def _read(case):
  arrays, tensors = read_reference(case)
  return arrays['frames'], arrays['answer'], tensors


@pytest.fixture
def weights_file(tmp_path):
  def write(tensors):
    np.savez(tmp_path / 'weights.npz', **tensors)
    return tmp_path / 'weights.npz'
  return write


@pytest.mark.parametrize('case', CASES)
def test_answers_equal_spandrels(case, weights_file):
  frames, answer, tensors = _read(case)
  network, params = weights.load(weights_file(tensors))
  ours = jax.jit(network.apply)({'params': params}, frames)
  np.testing.assert_allclose(ours, answer, atol=1e-4)


def test_every_variant_has_a_reference():
  assert len(CASES) == 7


def test_averaged_weights_come_before_raw_ones(weights_file):
  _, _, tensors = _read('superres_compact_x2')
  both = tensors | {f'params_ema.{key.removeprefix("params.")}': 0 * tensor
                    for key, tensor in tensors.items()}
  _, params = weights.load(weights_file(both))
  assert not any(jnp.any(leaf) for leaf in jax.tree.leaves(params))


def test_foreign_weights_are_refused(weights_file):
  with pytest.raises(UserError, match='no network known here'):
    weights.load(weights_file({'features.0.weight': np.zeros((4, 3, 3, 3))}))


def test_clip_nets_without_their_end_or_of_nan_are_refused(weights_file):
  tensors = shared_weights.read(SHIPPED)
  broken = {key: 0 * tensor + np.nan for key, tensor in tensors.items()}
  with pytest.raises(UserError, match='not finite'):
    weights.load(weights_file(broken))
  del tensors['conv_last.weight']
  with pytest.raises(UserError, match='no network known here'):
    weights.load(weights_file(tensors))


def test_old_names_of_another_scale_are_refused(weights_file):
  _, _, tensors = _read('superres_rrdb_x4_old')
  two = {key.replace('model.8.', 'model.5.').replace('model.10.', 'model.7.'):
         tensor for key, tensor in tensors.items() if 'model.6.' not in key}
  with pytest.raises(UserError, match='another scale'):
    weights.load(weights_file(two))


def test_a_missing_weight_is_named(weights_file):
  _, _, tensors = _read('superres_rrdb_x2')
  del tensors['body.1.rdb2.conv3.bias']
  with pytest.raises(UserError, match='body_1/rdb2/conv3/bias'):
    weights.load(weights_file(tensors))


@pytest.mark.parametrize('suffix', ['.npz', '.safetensors'])
def test_a_truncated_file_is_refused(tmp_path, weights_file, suffix):
  from safetensors.numpy import save_file
  _, _, tensors = _read('superres_compact_x4')
  file = weights_file(tensors)
  if suffix == '.safetensors':
    file = tmp_path / 'weights.safetensors'
    save_file(tensors, file)
  file.write_bytes(file.read_bytes()[:-2000])
  with pytest.raises(UserError, match='truncated'):
    weights.load(file)


@pytest.mark.parametrize('case', ['compact_x2', 'rrdb_x2'])
def test_a_layer_of_an_absurd_number_is_refused_before_it_is_made(
    weights_file, case):
  _, _, tensors = _read(f'superres_{case}')
  prefix = 'params.' if any(k.startswith('params.') for k in tensors) else ''
  name = {'compact_x2': 'body.999999999.weight',
          'rrdb_x2': 'body.999999999.rdb1.conv1.weight'}[case]
  tensors[prefix + name] = np.zeros((4, 4, 3, 3), np.float32)
  with pytest.raises(UserError, match=r'body\.999999999; .* fewer than 512'):
    weights.load(weights_file(tensors))


def test_unshuffle_inverts_shuffle():
  x = np.random.default_rng(0).uniform(size=(2, 3, 5, 12)).astype(np.float32)
  large = rrdb.pixel_shuffle(x, 2)
  assert large.shape == (2, 6, 10, 3)
  np.testing.assert_array_equal(rrdb.pixel_unshuffle(large, 2), x)
  np.testing.assert_array_equal(large[0, :2, :2, 1].ravel(), x[0, 0, 0, 4:8])


@pytest.mark.parametrize('network, shape', [
    (discriminator.VGGDiscriminator(4), (2, 1)),
    (discriminator.UNetDiscriminator(4), (2, 32, 32, 1))])
def test_a_discriminator_learns_to_tell_noise_from_grey(network, shape):
  real = jax.random.uniform(jax.random.key(0), (2, 32, 32, 3))
  fake = jnp.full((2, 32, 32, 3), 0.5)
  rng = np.random.default_rng(0)  # compiling `init` takes many seconds
  params = jax.tree.map(
      lambda leaf: rng.normal(0, 0.1, leaf.shape).astype(np.float32),
      jax.eval_shape(network.init, jax.random.key(1), real))

  @jax.jit
  def step(params):
    def loss(params):
      logits = network.apply(params, real)
      return jnp.mean(network.apply(params, fake) - logits), logits
    (value, logits), grads = jax.value_and_grad(loss, has_aux=True)(params)
    return value, logits, jax.tree.map(lambda p, g: p - 0.01 * g, params, grads)

  before, logits, params = step(params)
  assert logits.shape == shape
  assert step(params)[0] < before


def test_a_rival_is_shown_what_shrinking_takes():
  board = jnp.indices((16, 16)).sum(0) % 2 * 0.5 + 0.25
  frames = jnp.stack([board, jnp.full((16, 16), 0.75)])[..., None]
  shown = discriminator.with_detail(frames, 4)
  np.testing.assert_array_equal(shown[..., :1], frames - 0.5)
  np.testing.assert_allclose(shown[1, ..., 1], 0, atol=1e-5)
  np.testing.assert_allclose(  # but for the border
      shown[0, 5:11, 5:11, 1], 8 * (board - 0.5)[5:11, 5:11], atol=0.1)


def test_the_spectral_norm_is_the_largest_singular_value():
  kernel = jax.random.normal(jax.random.key(0), (3, 3, 8, 16))
  true = np.linalg.svd(np.reshape(kernel, (-1, 16)), compute_uv=False)[0]
  assert discriminator.spectral_norm(kernel) == pytest.approx(true, rel=0.03)
