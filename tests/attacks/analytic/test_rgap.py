"""Dense and recursive closed forms: exact, honest where they end."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import share
from vidleak_jax.attacks import analytic
from vidleak_jax.models import stack
from vidleak_jax.types import UserError
from vidleak_jax.victims import cross_entropy
from vidleak_jax.victims.base import from_module
from vidleak_jax.victims.lenet import lenet


def random_clips(num, shape, key=1):
  return jax.random.uniform(jax.random.key(key), (num, 1, *shape))


def psnr(a, b):
  errors = np.asarray(a, np.float64).reshape(len(b), -1) - np.asarray(
      b, np.float64).reshape(len(b), -1)
  return -10 * np.log10(np.mean(errors ** 2, axis=1))


def chain(shape, activation, widths=(12, 24), num_classes=7, conv=(5, 5)):
  ones = (1,) * (len(conv) - 1)
  specs = tuple(stack.ConvSpec(width, conv, (*ones, stride))
                for width, stride in zip(widths, (2, 1)))
  module = stack.Stack(specs, num_classes, activation, 'matmul')
  return from_module(module, shape, num_classes)


@pytest.mark.slow
def test_lenet_frames_come_back_with_their_labels():
  clips, labels = random_clips(3, (1, 8, 8, 3)), jnp.array([[1], [9], [4]])
  victim = lenet((1, 8, 8, 3), 10)
  walk = analytic.walk_down(victim, share(victim, clips, labels))
  assert walk.stopped == '' and walk.layer == 'conv0'
  np.testing.assert_array_equal(walk.labels, labels[:, 0])
  assert psnr(walk.activations, clips).min() > 70
  assert [row['layer'] for row in walk.report] == [
      'head', 'conv3', 'conv2', 'conv1', 'conv0']
  assert all(row['rank'] == row['unknowns'] for row in walk.report)
  assert all(row['residual'] < 1e-4 for row in walk.report)


@pytest.mark.slow
def test_black_flat_and_barred_frames():
  shape = (1, 8, 8, 3)
  clips = np.array(random_clips(6, shape))
  clips[0] = 0
  clips[1] = 1
  clips[2] = (0.2, 0.5, 0.7)
  clips[3, ..., 1] = 0              # a colour that is absent
  clips[4, ..., :2, :, :] = 0       # bars
  clips[4, ..., -2:, :, :] = 0
  clips[5] /= 255                   # as good as black
  victim = lenet(shape, 10)
  walk = analytic.walk_down(
      victim, share(victim, clips, jnp.arange(6)[:, None]))
  assert psnr(walk.activations, clips).min() > 60
  assert all(row['rank'] == row['unknowns'] for row in walk.report)


@pytest.mark.parametrize('activation', [
    'sigmoid', 'tanh', 'leaky_relu', 'softplus', 'identity'])
def test_every_invertible_activation(activation):
  victim = chain((1, 8, 8, 3), activation, widths=(12,), conv=(3, 3))
  clips, labels = random_clips(2, (1, 8, 8, 3)), jnp.array([[1], [5]])
  walk = analytic.walk_down(victim, share(victim, clips, labels))
  assert psnr(walk.activations, clips).min() > 70


def test_the_label_of_a_clip_that_the_network_is_sure_of():
  victim = lenet((1, 8, 8, 3), 10)
  clips, labels = random_clips(2, (1, 8, 8, 3)), jnp.array([[7], [7]])
  params = victim.init(jax.random.key(0))
  params['head']['bias'] = jnp.zeros(10).at[7].set(40.0)
  leak = share(victim.replace(init=lambda _: params), clips, labels)
  assert not np.any(leak.update['head']['bias'] < 0)
  np.testing.assert_array_equal(
      analytic.walk_down(victim, leak).labels, [7, 7])


def test_three_dimensional_convolutions():
  shape = (2, 6, 6, 3)
  victim = chain(shape, 'leaky_relu', widths=(16,), conv=(3, 3, 3))
  clips, labels = random_clips(2, shape), jnp.array([[1], [5]])
  walk = analytic.walk_down(victim, share(victim, clips, labels))
  assert walk.activations.shape == (2, *shape)
  assert psnr(walk.activations, clips).min() > 70


def test_too_few_equations_are_counted():
  victim = chain((1, 16, 16, 3), 'tanh', widths=(2,))
  leak = share(victim, random_clips(1, (1, 16, 16, 3)), jnp.array([[1]]))
  first = analytic.walk_down(victim, leak).report[-1]
  assert first['unknowns'] == 768 and first['equations'] == 256 + 150
  assert first['rank'] <= 406


def test_a_layer_without_inverse_ends_the_walk_at_its_exact_output():
  module = stack.Stack(
      (stack.ConvSpec(4, (3, 3), (2, 2)), stack.ConvSpec(8, (3, 3), (2, 2))),
      5, 'gelu', 'matmul')
  layers = stack.list_layers(module, (8, 8, 3))
  victim = from_module(module, (1, 8, 8, 3), 5, chain=layers)
  clips = random_clips(2, (1, 8, 8, 3))
  leak = share(victim, clips, jnp.array([[0], [3]]))
  walk = analytic.walk_down(victim, leak)
  x = clips[:, 0, 0]
  for layer in layers[:-1]:
    weights = leak.params[layer.name]
    x = nn.gelu(layer.linear(weights['kernel'], x) + weights['bias'])
  assert walk.layer == 'head'
  assert 'gelu' in walk.stopped and 'conv1' in walk.stopped
  np.testing.assert_allclose(walk.activations, x, rtol=1e-5, atol=1e-6)


class Classifier(nn.Module):
  """Dense, LayerNorm, ReLU, dropout, dense."""
  use_bias: bool = True

  @nn.compact
  def __call__(self, x, train=False):
    x = nn.Dense(32, use_bias=self.use_bias, name='first')(x)
    x = nn.relu(nn.LayerNorm()(x))
    x = nn.Dropout(0.3, deterministic=not train)(x)
    return nn.Dense(10, name='head')(x)


def classifier_update(features, labels, use_bias=True):
  """Updates of messages with features [M, B, n], dropout on."""
  module = Classifier(use_bias)
  params = module.init(jax.random.key(0), features[0])['params']

  def loss(params, x, y, key):
    rngs = {'dropout': key}
    logits = module.apply({'params': params}, x, train=True, rngs=rngs)
    return cross_entropy(logits, y)

  keys = jax.random.split(jax.random.key(1), len(features))
  return jax.vmap(jax.grad(loss), (None, 0, 0, 0))(
      params, features, labels, keys)


def test_first_dense_input_through_dropout_layernorm_and_depth():
  features = jax.random.normal(jax.random.key(3), (4, 1, 64))
  labels = jnp.array([[0], [3], [9], [3]])
  update = classifier_update(features, labels)
  found = analytic.dense_input(update, ('first',))
  np.testing.assert_allclose(found.features, features[:, 0], rtol=1e-5,
                             atol=1e-6)
  np.testing.assert_array_equal(
      analytic.infer_label(update, ('head',)), labels[:, 0])


def test_missing_bias_and_dead_layer_are_said():
  features, labels = jnp.ones((1, 1, 8)), jnp.array([[2]])
  update = classifier_update(features, labels, use_bias=False)
  with pytest.raises(UserError, match='no bias'):
    analytic.dense_input(update, ('first',))
  dead = jax.tree.map(jnp.zeros_like, classifier_update(features, labels))
  with pytest.raises(UserError, match='zero in 1 of 1'):
    analytic.dense_input(dead, ('first',))


def test_batches_are_refused_but_their_span_is_given():
  features = jax.random.normal(jax.random.key(3), (2, 3, 64))
  update = classifier_update(features, jnp.array([[0, 3, 9], [1, 2, 2]]))
  with pytest.raises(UserError, match='input_span'):
    analytic.dense_input(update, ('first',))
  with pytest.raises(UserError, match='batch size 3'):
    analytic.dense_input(update, ('first',), batch_size=3)
  for basis, inputs in zip(analytic.input_span(update, ('first',)),
                           np.asarray(features, np.float64)):
    assert basis.shape == (3, 64)
    outside = inputs - inputs @ basis.T @ basis
    assert np.linalg.norm(outside) < 1e-5 * np.linalg.norm(inputs)


def test_noise_is_no_batch_and_shows_in_the_residual():
  features = jax.random.normal(jax.random.key(3), (1, 1, 64))
  update = classifier_update(features, jnp.array([[0]]))
  kernel = update['first']['kernel']
  noise = jax.random.normal(jax.random.key(4), kernel.shape)
  scale = 0.1 * jnp.sqrt(jnp.mean(kernel ** 2))
  update['first']['kernel'] = kernel + scale * noise
  found = analytic.dense_input(update, ('first',))
  assert 0.05 < found.residual[0] < 0.15


def test_zeroed_entries_are_left_out():
  features = jax.random.normal(jax.random.key(3), (1, 1, 64))
  update = classifier_update(features, jnp.array([[0]]))
  kernel = update['first']['kernel']
  kept = jax.random.bernoulli(jax.random.key(4), 0.5, kernel.shape)
  update['first']['kernel'] = kernel * kept
  found = analytic.dense_input(update, ('first',))
  np.testing.assert_allclose(found.features, features[:, 0], rtol=1e-5,
                             atol=1e-6)


def test_a_victim_without_layers_is_refused():
  victim = lenet((1, 8, 8, 3), 10)
  leak = share(victim, random_clips(1, (1, 8, 8, 3)), jnp.array([[3]]))
  with pytest.raises(UserError, match='no chain of linear'):
    analytic.walk_down(victim.replace(chain=()), leak)
