"""A user's own network: linen, nnx, a loss, or a factory by its name."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidleak_jax import user_code
from vidleak_jax.types import UserError, Victim
from vidleak_jax.victims import cross_entropy, from_factory

SHAPE, K = (2, 4, 4, 3), 5


class Net(nn.Module):
  """Dropout under the name that a test chooses."""
  flag: str = 'train'

  def head(self, clips, dropped):
    x = nn.tanh(nn.Dense(8, name='first')(clips.reshape(len(clips), -1)))
    x = nn.Dropout(0.5, deterministic=not dropped)(x)
    return nn.Dense(K, name='last')(x)


class Train(Net):
  @nn.compact
  def __call__(self, clips, train: bool):
    return self.head(clips, train)


class Deterministic(Net):
  @nn.compact
  def __call__(self, clips, deterministic: bool = False):
    return self.head(clips, not deterministic)


class Plain(Net):
  @nn.compact
  def __call__(self, clips):
    return self.head(clips, False)


@pytest.fixture(scope='module')
def batch():
  clips = np.random.default_rng(0).random((2, *SHAPE), np.float32)
  return jnp.asarray(clips), jnp.array([1, 3])


@pytest.mark.parametrize('make', [Train, Deterministic])
def test_linen_is_told_that_it_does_not_train(make, batch):
  victim = Victim.from_flax(make(), SHAPE, K)
  params = victim.init(jax.random.key(0))
  assert victim.head == ('last',) and victim.logits(
      params, batch[0]).shape == (2, K)
  loss = victim.loss(params, *batch)
  assert loss == victim.loss(params, *batch)
  np.testing.assert_allclose(
      loss, cross_entropy(victim.logits(params, batch[0]), batch[1]), rtol=1e-6)
  dropped = victim.loss(params, *batch, key=jax.random.key(1))
  assert dropped != loss
  assert dropped == victim.loss(params, *batch, key=jax.random.key(1))


def test_linen_without_such_an_argument(batch):
  victim = Victim.from_flax(Plain(), SHAPE, K)
  params = victim.init(jax.random.key(0))
  assert victim.loss(params, *batch) == victim.loss(
      params, *batch, key=jax.random.key(1))


def test_nnx_holds_its_own_parameters(batch):
  from flax import nnx

  class Own(nnx.Module):
    def __init__(self, rngs):
      self.first = nnx.Linear(96, 8, rngs=rngs)
      self.last = nnx.Linear(8, K, rngs=rngs)

    def __call__(self, clips):
      return self.last(nnx.tanh(self.first(clips.reshape(len(clips), -1))))

  module = Own(nnx.Rngs(0))
  victim = Victim.from_flax(module, SHAPE, K)
  params = victim.init(jax.random.key(0))
  assert victim.head == ('last',)
  np.testing.assert_allclose(
      victim.logits(params, batch[0]), module(batch[0]), rtol=1e-6)
  slope = jax.jit(jax.grad(victim.loss))(params, *batch)
  assert jax.tree.structure(slope) == jax.tree.structure(params)
  zero = jax.tree.map(jnp.zeros_like, params)
  assert not victim.logits(zero, batch[0]).any()  # params are an argument
  with pytest.raises(UserError, match='dropout off'):
    victim.loss(params, *batch, key=jax.random.key(1))


def test_a_loss_is_enough(batch):
  params = {'out': {'kernel': jnp.ones((96, K)), 'bias': jnp.zeros(K)}}

  def loss(params, clips, labels):
    own = params['out']
    return cross_entropy(
        clips.reshape(len(clips), -1) @ own['kernel'] + own['bias'], labels)
  victim = Victim.from_loss(loss, params, SHAPE, K)
  assert victim.logits is None and victim.head == ('out',)
  assert victim.loss(params, *batch) == loss(params, *batch)
  with pytest.raises(UserError, match='no dropout key'):
    victim.loss(params, *batch, key=jax.random.key(0))


def test_what_cannot_be_a_victim_is_told():
  with pytest.raises(UserError, match='linen or nnx module, got function'):
    Victim.from_flax(lambda clips: clips, SHAPE, K)
  with pytest.raises(UserError, match=r'to \(2, 5\), not to \(2, 7\)'):
    Victim.from_flax(Plain(), SHAPE, 7)
  with pytest.raises(UserError, match='four positive whole numbers'):
    Victim.from_flax(Plain(), SHAPE[1:], K)
  with pytest.raises(UserError, match='Parameter w of loss is int32'):
    Victim.from_loss(loss_of_whole_numbers, {'w': jnp.ones(3, int)}, SHAPE, K)


def loss_of_whole_numbers(params, clips, labels):
  del labels
  return clips.mean() * params['w'].sum()


loss_of_whole_numbers.__name__ = 'loss'
FILE = """
import flax.linen as nn
class Own(nn.Module):
  @nn.compact
  def __call__(self, clips):
    return nn.Dense({width})(clips.reshape(len(clips), -1))
def make({arguments}):
  return {result}
number = 3
"""


@pytest.fixture
def write(tmp_path):
  def write(arguments='', result='Own()', width=K):
    file = tmp_path / 'own.py'
    file.write_text(FILE.format(
        arguments=arguments, result=result, width=width))
    return str(file)
  return write


@pytest.mark.parametrize('arguments', [
    '', 'num_classes', 'clip_shape, num_classes', '**given'])
def test_a_factory_gets_what_it_takes(write, arguments):
  victim = from_factory(f'{write(arguments)}:make', SHAPE, K)
  assert victim.clip_shape == SHAPE and victim.head == ('Dense_0',)


@pytest.mark.parametrize(('name', 'message'), [
    ('own.py', 'it must be'), ('own:1', 'it must be'), ('', 'it must be'),
    ('/no/such/own.py:make', 'there is no such file'),
    ('no_such_package.own:make', 'not installed or not on the path'),
    ('math:no_such_function', "no function 'no_such_function'")])
def test_a_name_that_leads_nowhere_is_told(name, message):
  with pytest.raises(UserError, match=message):
    user_code.load(name)


def test_what_a_file_lacks_or_returns_is_told(write):
  file = write(result='3')
  with pytest.raises(UserError, match="no function 'absent'"):
    user_code.load(f'{file}:absent')
  with pytest.raises(UserError, match="no function 'number'"):
    user_code.load(f'{file}:number')
  with pytest.raises(UserError, match='linen or nnx module, got int'):
    from_factory(f'{file}:make', SHAPE, K)


def test_a_broken_file_shows_its_own_error(tmp_path):
  file = tmp_path / 'own.py'
  file.write_text('import no_such_package_of_mine\n')
  for _ in range(2):  # a file that failed is not taken as loaded
    with pytest.raises(ModuleNotFoundError, match='no_such_package_of_mine'):
      user_code.load(f'{file}:make')
