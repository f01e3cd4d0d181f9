"""Training: goes down, resumes bit by bit, agrees over devices."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vidleak_jax.runtime import parallel
from vidleak_jax.superres import losses, network, perceptual, step, train
from vidleak_jax.superres.spec import TrainingSpec
from vidleak_jax.types import UserError

TINY = {
    'seed': 0, 'num_devices': 1, 'start': None, 'max_noise': 0.05,
    'network': {'name': 'clip', 'scale': 2, 'frames': 3, 'width': 4,
                'num_blocks': 1},
    'pool': {'num_clips': 8, 'size': 16, 'degradation': 'bicubic'},
    'batch_size': 4, 'chunk_steps': 2, 'validate_steps': 2, 'ema': 0.5,
    'stage1': {'num_steps': 4, 'learning_rate': 1e-2,
               'objective': {'l1': 1.0}},
    'stage2': {'num_steps': 0, 'objective': {'l1': 1.0, 'gan': 0.0}},
    'interpolation': 0.5,
    'perceptual': {'network': 'none', 'weights_file': None},
}


def _run(config, folder):
  small = np.full((1, 3, 8, 8, 3), 0.5, np.float32)
  large = np.full((1, 3, 16, 16, 3), 0.5, np.float32)
  score = lambda a, b, c: {'psnr_enhanced': float(np.mean((a - c) ** 2))}  # noqa: E731
  train.run(TrainingSpec.from_dict(config), small, large, score, folder)
  return network.load(folder / 'stage1.safetensors')[1]


def test_a_resumed_run_equals_one_run(tmp_path, monkeypatch):
  whole = _run(TINY, tmp_path / 'whole')

  class Killed(Exception):
    pass

  def die(path, *_):
    if path.name == 'sample_stage1_4.png':
      raise Killed
  with monkeypatch.context() as patch, pytest.raises(Killed):
    patch.setattr(train, '_picture', die)  # before step 4 is saved
    _run(TINY, tmp_path / 'killed')
  resumed = _run(TINY, tmp_path / 'killed')
  jax.tree.map(np.testing.assert_array_equal, whole, resumed)
  assert (tmp_path / 'whole/sample_stage1_4.png').exists()


@pytest.mark.slow
def test_rows_are_unique_and_the_result_is_written(tmp_path, monkeypatch):
  """Killed in stage 2, whose steps count on from those of stage 1."""
  config = {**TINY, 'validate_steps': 100, 'stage2': TINY['stage1']}

  class Killed(Exception):
    pass

  log = train.MetricsLog.write

  def write(self, step, **row):
    log(self, step, **row)
    if step == 8:  # its row is written, its checkpoint is not
      raise Killed
  with monkeypatch.context() as patch, pytest.raises(Killed):
    patch.setattr(train.MetricsLog, 'write', write)
    _run(config, tmp_path)
  assert not (tmp_path / 'result.json').exists()
  assert (tmp_path / 'checkpoints/stage2/2').is_dir()  # at every chunk
  _run(config, tmp_path)
  rows = [json.loads(line) for line
          in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
  assert [(row['stage'], row['step']) for row in rows] == [
      ('stage1', 2), ('stage1', 4), ('stage2', 6), ('stage2', 8)]
  result = json.loads((tmp_path / 'result.json').read_text())
  assert result['num_steps'] == 8 and 'psnr_enhanced' in result
  monkeypatch.setattr(train, 'make_pool', None)  # nothing is trained again
  _run(config, tmp_path)


def test_devices_must_divide_the_batch(tmp_path):
  with pytest.raises(UserError, match='does not divide over 3 devices'):
    _run({**TINY, 'num_devices': 3}, tmp_path)


def test_training_starts_from_the_very_network_only(tmp_path):
  config = {**TINY, 'start': 'shipped'}
  with pytest.raises(UserError, match=r'shipped holds ClipNet.*asks for'):
    _run(config, tmp_path)


def _fit(num_steps, objective, discriminator=None):
  """Steps of a tiny network on a fixed pool; the terms of each."""
  net = network.build(**TINY['network'])
  pool = train.make_pool(net, TrainingSpec.from_dict(TINY))
  devices = jax.local_devices()[:2]
  params = net.init(jax.random.key(0))
  optimizer, terms = optax.adam(1e-2), []
  init, apply = discriminator or (lambda: (), None)
  disc_params = init()
  advance = step.one_step(
      net, optimizer, objective, batch_size=4, max_noise=0.0, ema=0.5,
      discriminate=apply, disc_optimizer=optimizer)
  run = parallel.on_devices(
      lambda *a: advance(*a[:2], jax.random.wrap_key_data(a[2])), devices)
  state = parallel.replicate(jax.device_get(step.State(
      jnp.zeros((), jnp.int32), params, optimizer.init(params), params,
      disc_params, optimizer.init(disc_params))), devices)
  pool, key = (parallel.replicate(x, devices) for x in (
      pool, jax.random.key_data(jax.random.key(1))))
  for _ in range(num_steps):
    state, now = run(state, pool, key)
    terms.append({k: float(v[0]) for k, v in now.items()})
  return terms, jax.device_get(state)


def test_the_loss_falls_and_devices_stay_alike():
  terms, state = _fit(60, step.Objective(l1=1.0))
  losses_seen = [row['l1'] for row in terms]
  assert np.mean(losses_seen[-15:]) < 0.95 * np.mean(losses_seen[:15])
  for leaf in jax.tree.leaves(state):
    np.testing.assert_array_equal(leaf[0], leaf[1])


@pytest.mark.slow
def test_the_rival_learns_too():
  def init():
    return {'w': np.full(3, 0.1, np.float32)}

  def apply(params, key, frames):
    del key
    return jnp.std(frames, (1, 2)) @ params['w']

  terms, state = _fit(3, step.Objective(l1=1.0, gan=0.1), (init, apply))
  assert {'l1', 'gan', 'discriminator'} == set(terms[-1])
  assert not np.allclose(state.discriminator['w'], 0.1)


@pytest.mark.slow
def test_no_key_is_used_twice():
  pool = step.Pool(jnp.zeros((3, 3, 4, 4, 3), jnp.uint8),
                   jnp.zeros((3, 8, 8, 3), jnp.uint8))
  draw = jax.jit(lambda key: step.draw(key, pool, 2, 0.05))
  with jax.debug_key_reuse(True):
    draw(jax.random.key(0))


@pytest.mark.parametrize('loud', [1e-3, 1.0, 1e6])
def test_a_rival_that_shouts_pulls_no_harder(loud):
  terms = {'l1': lambda x: jnp.abs(x - 1).mean(),
           'gan': lambda x: loud * x[0, 0, 0, 0]}
  frames = jnp.zeros((1, 4, 4, 1))
  total, values = step.balanced(step.Objective(l1=1.0, gan=0.5), terms, frames)
  assert values['l1'] == 1 and values['gan'] == 0
  rest = np.full((1, 4, 4, 1), -1 / 16)
  rest[0, 0, 0, 0] += 0.5 * 1 / 4  # the norm of L1's gradient is 1 / 4
  np.testing.assert_allclose(total, rest, rtol=1e-5)
  silent = terms | {'gan': lambda x: 0 * x.sum()}
  still, _ = step.balanced(step.Objective(gan=0.5), silent, frames)
  np.testing.assert_allclose(still, -1 / 16, rtol=1e-5)


def test_relativistic_losses_are_log_two_where_nothing_is_told_apart():
  same = jnp.zeros((4, 1))
  assert losses.discriminator_loss(same, same) == pytest.approx(np.log(2))
  sure = losses.discriminator_loss(same + 5, same - 5)
  assert sure < 1e-3 < losses.generator_loss(same + 5, same - 5)


def test_a_perceptual_loss_is_absent_by_choice_only(tmp_path):
  assert perceptual.features('none', None) is None
  with pytest.raises(UserError, match='network=none to train without'):
    perceptual.features('vgg19', None)
  with pytest.raises(UserError, match='Choose one of: resnet20, vgg19'):
    perceptual.features('vgg16', None)
  config = {**TINY, 'stage1': {**TINY['stage1'],
                               'objective': {'l1': 1.0, 'perceptual': 0.1}}}
  with pytest.raises(UserError, match='perceptual is not 0'):
    _run(config, tmp_path)


@pytest.mark.parametrize('change, said', [
    ({'seed': -1}, 'seed is -1'), ({'ema': 1.0}, 'ema is 1.0.*below 1'),
    ({'stage1': {'learning_rate': float('nan')}}, 'learning_rate is nan'),
    ({'stage1': {'objective': {'gan': 1.0}}}, 'stage 1 has no discriminator'),
    ({'stage1': {'num_steps': 0}}, 'both 0'),
    ({'stage2': {'discriminator': 'vgg11'}}, "Did you mean 'vgg'"),
    ({'pool': {'sise': 16}}, "Did you mean 'size'"),
    ({'network': {'name': 'rrdb', 'width': 4}}, "no field 'frames'"),
    ({'network': TINY['network'] | {'scale': 4}}, 'enlarges by 4'),
])
def test_bad_training_is_told(change, said, tmp_path):
  with pytest.raises(UserError, match=said):
    _run(TINY | change, tmp_path)
  assert not (tmp_path / 'result.json').exists()


@pytest.mark.parametrize('name', ['clip', 'rrdb', 'compact'])
def test_weights_come_back_from_disk(tmp_path, name):
  small = {'width': 4} | ({'growth': 2} if name == 'rrdb' else {}) | (
      {'num_convs': 1} if name == 'compact' else {'num_blocks': 1})
  net = network.build(name, **small)
  rng = np.random.default_rng(0)
  params = jax.tree.map(
      lambda leaf: rng.normal(size=leaf.shape).astype(np.float32),
      jax.eval_shape(net.init, jax.random.key(0)))
  network.save(tmp_path / 'a.safetensors', net, params)
  again, loaded = network.load(tmp_path / 'a.safetensors')
  assert again.module == net.module
  jax.tree.map(np.testing.assert_array_equal, loaded, params)
  half = network.interpolate(params, jax.tree.map(jnp.zeros_like, params), 0.5)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b / 2), half, params)


def test_perceptual_features_come_from_a_file(tmp_path):
  """Random weights in torchvision's names; equal frames cost nothing."""
  rng, tensors = np.random.default_rng(0), {}

  def add(conv, norm, outputs, inputs):
    tensors[f'module.{conv}.weight'] = rng.uniform(
        0.1, 1, (outputs, inputs, 3, 3)).astype(np.float32)
    for leaf in ('weight', 'bias', 'running_mean', 'running_var'):
      tensors[f'module.{norm}.{leaf}'] = rng.uniform(
          0.1, 1, outputs).astype(np.float32)
  add('conv1', 'bn1', 16, 3)
  for stage, width in enumerate((16, 32, 64), 1):
    for i in range(3):
      before = width // 2 if stage > 1 and not i else width
      name = f'layer{stage}.{i}'
      add(f'{name}.conv1', f'{name}.bn1', width, before)
      add(f'{name}.conv2', f'{name}.bn2', width, width)
  np.savez(tmp_path / 'resnet20.npz', **tensors)
  features = perceptual.features('resnet20', tmp_path / 'resnet20.npz')
  frames = jax.random.uniform(jax.random.key(0), (1, 16, 16, 3))
  loss = jax.jit(lambda a, b: losses.perceptual(features, a, b))
  assert loss(frames, frames) == 0 < loss(frames, 1 - frames)


@pytest.mark.slow
def test_our_own_extractor_serves_too():
  """Its last stage, pooled, is what the victims' network gives."""
  from vidleak_jax.victims.frozen import frozen
  victim = frozen((1, 32, 32, 3), 10, weights_file='photo_motion')
  features = perceptual.features('resnet20', 'photo_motion')
  frames = jax.random.uniform(jax.random.key(0), (2, 32, 32, 3))
  ours = jax.jit(lambda x: jax.nn.relu(features(x)[-1][1]).mean((1, 2)))(frames)
  np.testing.assert_allclose(ours, victim.features(frames[:, None])[:, 0],
                             atol=1e-4)
