"""What is particular to some victims: frozen parts, norms, tokens, dropout."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import CLIPS
from vidleak_jax.models import weights
from vidleak_jax.models.heads import HEADS
from vidleak_jax.models.layers import INPUTS, max_pool
from vidleak_jax.models.norms import Norm
from vidleak_jax.models.recurrent import Recurrent
from vidleak_jax.models.resnet import ResNet, Style
from vidleak_jax.types import UserError
from vidleak_jax.victims import build, flax_modules
from vidleak_jax.victims.frozen import EXTRACTORS, NAMES

SHAPE = 4, 16, 16, 3
CIFAR = CLIPS.parent / 'weights/resnet20-cifar10.th'
CIFAR_CLASSES = ('airplane', 'automobile', 'bird', 'cat', 'deer', 'dog',
                 'frog', 'horse', 'ship', 'truck')


def _clips(batch=1, seed=0):
  clips = np.random.default_rng(seed).random((batch, *SHAPE), np.float32)
  return jnp.asarray(clips)


def _flat(params):
  return {'/'.join(e.key for e in path): np.asarray(leaf) for path, leaf
          in jax.tree_util.tree_flatten_with_path(params)[0]}


@pytest.mark.parametrize('head', ['classifier1', 'classifier2', 'classifier3'])
def test_a_head_leaks_its_feature_even_through_dropout(head):
  """feature = dW / db of the first dense layer (PAPER.md, faults, 5)."""
  victim = build('frozen', SHAPE, 5, preset='tiny', head=head)
  params, clips = victim.init(jax.random.key(0)), _clips()
  grads = jax.jit(jax.grad(victim.loss))(params, clips, jnp.array([2]),
                                         key=jax.random.key(1))
  dense, = victim.feature_layer
  error = grads[dense]['bias']
  unit = jnp.argmax(jnp.abs(error))
  feature = grads[dense]['kernel'][:, unit] / error[unit]
  expected = jax.jit(victim.features)(clips).mean(1)[0]
  np.testing.assert_allclose(feature, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('head', HEADS)
def test_params_hold_the_head_alone(head):
  victim = build('frozen', SHAPE, 5, preset='tiny', head=head)
  shapes = jax.eval_shape(victim.init, jax.random.key(0))
  assert not any('stage' in path for path in shapes)
  assert 'seed 0' in victim.known
  clips = jax.ShapeDtypeStruct((2, *SHAPE), jnp.float32)
  assert jax.eval_shape(victim.logits, shapes, clips).shape == (2, 5)
  assert jax.eval_shape(victim.features, clips).shape == (2, 4, 8)


def test_the_extractor_comes_from_a_file_or_a_seed(tmp_path):
  style = Style('relu', 'fixed', 'matmul')
  network = ResNet(EXTRACTORS['resnet_tiny'], style, inputs='imagenet')
  variables = jax.jit(network.init)(jax.random.key(7),
                                    jnp.zeros((1, *SHAPE[1:])))
  np.savez(tmp_path / 'a.npz', **_flat(
      variables['params'] | {'batch_stats': variables['batch_stats']}))
  options = {'preset': 'tiny', 'head': 'mlp'}
  seeded = build('frozen', SHAPE, 5, extractor_seed=7, **options)
  read = build('frozen', SHAPE, 5, weights_file=tmp_path / 'a.npz', **options)
  other = build('frozen', SHAPE, 5, **options)
  features, same, different = (
      jax.jit(victim.features)(_clips()) for victim in (seeded, read, other))
  np.testing.assert_allclose(features, same, rtol=1e-5)
  assert not np.allclose(features, different)
  assert 'a.npz, sha256' in read.known
  np.savez(tmp_path / 'b.npz', **_flat(variables['params']))
  with pytest.raises(UserError, match='lacks'):
    build('frozen', SHAPE, 5, weights_file=tmp_path / 'b.npz', **options)


def test_the_published_resnet20_knows_a_cat_from_a_rocket():
  """Trained on CIFAR-10, of which no image is at hand: scikit-image's serve."""
  pytest.importorskip('torch', reason='the file is of torch')
  if not CIFAR.exists():
    pytest.skip(f'no {CIFAR.name} beside the repository')
  import skimage
  from PIL import Image
  network = ResNet(EXTRACTORS['resnet20'], Style('relu', 'fixed', 'matmul'),
                   10, 'imagenet')
  shapes = jax.eval_shape(network.init, jax.random.key(0),
                          jnp.zeros((1, 32, 32, 3)))
  params, report = weights.load(
      shapes['params'] | {'batch_stats': shapes['batch_stats']}, CIFAR, NAMES)
  assert not report.missing and not report.unused
  classes = []
  for name in ('chelsea.png', 'rocket.jpg', 'motorcycle_left.png'):
    image = Image.open(Path(skimage.__file__).parent / 'data' / name)
    size, (width, height) = min(image.size), image.size
    left, top = (width - size) // 2, (height - size) // 2
    image = image.convert('RGB').resize(
        (32, 32), Image.BICUBIC, (left, top, left + size, top + size))
    logits = network.apply(flax_modules.split_stats(params),
                           np.asarray(image, np.float32)[None] / 255)
    classes.append(CIFAR_CLASSES[int(jnp.argmax(logits))])
  assert classes == ['cat', 'ship', 'automobile']


@pytest.mark.parametrize('inputs', INPUTS)
def test_tokens_come_back_as_the_clip(inputs):
  victim = build('vivit', SHAPE, 5, preset='tiny', inputs=inputs)
  clips = _clips(2)
  patches = victim.tokens.patches(clips)
  assert patches.shape == (2, 8, 2 * 8 * 8 * 3)
  np.testing.assert_allclose(victim.tokens.unpatch(patches), clips, atol=1e-6)


@pytest.mark.parametrize('pool', ['token', 'mean'])
def test_a_token_position_leaks_what_the_embedding_saw(pool):
  """The embedding's gradient is X^T delta, delta that of the positions."""
  victim = build('vivit', SHAPE, 5, preset='tiny', pool=pool)
  params, clips = victim.init(jax.random.key(0)), _clips()
  tokens = victim.tokens
  grads = jax.jit(jax.grad(victim.loss))(params, clips, jnp.array([2]))
  scope, positions = tokens.positions
  delta = grads[scope][positions][0, tokens.num_special:]
  np.testing.assert_allclose(
      tokens.patches(clips)[0].T @ delta,
      grads[tokens.embedding[0]]['kernel'], atol=1e-5)


def test_dropout_needs_a_key_and_repeats_with_it():
  victim = build('c3d', SHAPE, 5, preset='tiny_pooled')
  params, clips = victim.init(jax.random.key(0)), _clips(2)
  labels, loss = jnp.array([1, 3]), jax.jit(victim.loss)
  one, two = jax.random.split(jax.random.key(0))
  assert loss(params, clips, labels) == loss(params, clips, labels)
  dropped = loss(params, clips, labels, key=one)
  assert dropped == loss(params, clips, labels, key=one)
  assert dropped != loss(params, clips, labels, key=two)
  assert dropped != loss(params, clips, labels)


def test_norms_give_unit_moments():
  x = 3 + 2 * jax.random.normal(jax.random.key(0), (4, 5, 6, 16))
  axes = {'batch': (0, 1, 2), 'layer': (3,)}
  for kind, over in axes.items():
    y, _ = Norm(kind).init_with_output(jax.random.key(0), x)
    np.testing.assert_allclose(y.mean(over), 0, atol=1e-5)
    np.testing.assert_allclose(y.std(over), 1, rtol=1e-3)
  y, _ = Norm('group').init_with_output(jax.random.key(0), x)
  groups = y.reshape(4, 30, 8, 2)
  np.testing.assert_allclose(groups.mean((1, 3)), 0, atol=1e-5)
  np.testing.assert_allclose(groups.std((1, 3)), 1, rtol=1e-3)
  y, _ = Norm('fixed').init_with_output(jax.random.key(0), x)
  np.testing.assert_allclose(y, x, rtol=1e-4)
  assert Norm('none').init(jax.random.key(0), x) == {}


def test_statistics_move_a_tenth_towards_the_batch():
  victim = build('cnn_gru', SHAPE, 5, preset='tiny', norm='batch')
  fixed = build('cnn_gru', SHAPE, 5, preset='tiny', norm='fixed')
  params, clips = victim.init(jax.random.key(0)), _clips(2)
  moved = jax.jit(victim.statistics)(params, clips)
  assert jax.tree.structure(moved) == jax.tree.structure(params)
  first = params['conv0']
  x = jax.lax.conv_general_dilated(
      clips.reshape(-1, 16, 16, 3), first['kernel'], (2, 2), ((1, 1), (1, 1)),
      dimension_numbers=('NHWC', 'HWIO', 'NHWC')) + first['bias']
  stats = moved['batch_stats']['norm0']
  np.testing.assert_allclose(stats['mean'], 0.1 * x.mean((0, 1, 2)), rtol=1e-3)
  np.testing.assert_allclose(stats['var'], 0.9 + 0.1 * x.var((0, 1, 2)),
                             rtol=1e-3)
  unmoved = jax.jit(fixed.statistics)(params, clips)
  jax.tree.map(np.testing.assert_array_equal, unmoved, params)


def test_max_pooling_equals_xla():
  x = jax.random.normal(jax.random.key(0), (2, 5, 8, 9, 3))
  ours = max_pool(x, (2, 3, 3), (2, 2, 2), (0, 1, 1))
  theirs = jax.lax.reduce_window(
      x, -jnp.inf, jax.lax.max, (1, 2, 3, 3, 1), (1, 2, 2, 2, 1),
      ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)))
  np.testing.assert_array_equal(ours, theirs)


def test_an_unknown_cell_says_what_is_allowed():
  with pytest.raises(UserError, match='gru, lstm'):
    Recurrent(3, 'rnn').init(jax.random.key(0), jnp.zeros((1, 2, 3)))
