"""Training: goes on bit for bit, counts devices alike, learns, and is read."""

import importlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidleak_jax import victims
from vidleak_jax.clients import defenses, dp_sgd
from vidleak_jax.experiments import audit, augment, training
from vidleak_jax.experiments.training_spec import TrainingSpec
from vidleak_jax.leaks import storage
from vidleak_jax.models import weights
from vidleak_jax.specs import DefenseSpec, DpSgdSpec
from vidleak_jax.types import Batch, UserError

from .test_audit import config as attack_config


def _config(name='train_c3d', **overrides):
  config = importlib.import_module(f'vidleak_jax.recipes.{name}').get_config()
  tiny = {'data__num_frames': 4, 'clips_per_video': 1, 'victim__preset': 'tiny',
          'backend__num_devices': 1, 'num_steps': 6, 'chunk_steps': 2,
          'warmup_steps': 1, 'batch_size': 4, 'snapshots': (0.0, 0.5, 1.0)}
  with config.unlocked():
    config.update_from_flattened_dict(
        {k.replace('__', '.'): v for k, v in (tiny | overrides).items()})
  return TrainingSpec.from_dict(config.to_dict())


@pytest.fixture(scope='module', autouse=True)
def few_clips():
  """A few clips of the set, read once."""
  patch, kept, load = pytest.MonkeyPatch(), {}, training.data.train_arrays

  def limited(name, **options):
    key = name, *sorted(options.items())
    kept[key] = kept.get(key) or load(name, **options, limit=10)
    return kept[key]
  patch.setattr(training.data, 'train_arrays', limited)
  yield
  patch.undo()


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  folder = tmp_path_factory.mktemp('train')
  return folder, training.run(_config(), folder)


def _saved(folder):
  return weights.read(folder / 'params.safetensors')


def test_a_workdir_holds_weights_snapshots_and_accuracy(run):
  folder, result = run
  assert 0 <= result['accuracy_test'] <= 1
  assert json.loads((folder / 'result.json').read_text()) == result
  names = {f.name for f in (folder / 'snapshots').iterdir()}
  assert names == {f'step_{n}.safetensors' for n in (0, 3, 6)}
  rows = (folder / 'metrics.jsonl').read_text().splitlines()
  assert [json.loads(row)['step'] for row in rows] == [2, 3, 4, 6]


def test_an_interrupted_run_ends_bit_equal(run, tmp_path, monkeypatch):
  def interrupt(folder, steps, state):
    if int(state.step) == 4:
      raise KeyboardInterrupt
  with monkeypatch.context() as patch:
    patch.setattr(training, '_snapshot', interrupt)
    with pytest.raises(KeyboardInterrupt):
      training.run(_config(), tmp_path)
  assert not (tmp_path / 'result.json').exists()
  training.run(_config(), tmp_path)
  whole = _saved(run[0])
  for name, leaf in _saved(tmp_path).items():
    np.testing.assert_array_equal(leaf, whole[name])


@pytest.fixture(scope='module')
def victim():
  return victims.build('c3d', (4, 16, 16, 3), 3, preset='tiny')


BATCH = Batch(np.random.default_rng(0).uniform(
    size=(4, 4, 16, 16, 3)).astype(np.float32), np.array([0, 1, 2, 0]))


NO_DEFENSE = DefenseSpec()


def moved(victim, count=1, *, defense=NO_DEFENSE, step=0):
  """By how much a step of SGD moves the weights, on so many devices."""
  params = jax.device_get(victim.init(jax.random.key(0)))
  optimizer = training.optax.sgd(1.0)
  state = training.State(
      jnp.array(step, jnp.int32), params, optimizer.init(params))
  devices = training.parallel.pick_devices(count)
  key = training.parallel.replicate(
      jax.random.key_data(jax.random.key(0)), devices)
  take = training.one_step(victim, optimizer, lambda key, batch: batch, defense)
  new, _ = training.parallel.on_devices(take, devices)(
      training.parallel.replicate(state, devices),
      training.parallel.spread(BATCH, devices), key)
  return params, jax.tree.map(
      lambda a, b: a - jax.device_get(b[0]), params, new.params)


DP_SGD = DefenseSpec(dp_sgd=DpSgdSpec(clip_norm=0.1, noise_multiplier=1.0))


@pytest.mark.parametrize('defense', [NO_DEFENSE, DP_SGD],
                         ids=['none', 'dp_sgd'])
def test_two_devices_take_the_step_of_one(victim, defense):
  _, one = moved(victim, defense=defense)
  _, two = moved(victim, 2, defense=defense)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
               one, two)
  assert min(np.abs(leaf).max() for leaf in jax.tree.leaves(one)) > 0


def test_each_step_passes_the_defence_with_new_noise(victim):
  params, exact = moved(victim)
  _, rounded = moved(victim, defense=DefenseSpec(quantize_bits=4))
  transform = defenses.quantize(4)
  wanted, _ = transform.update(exact, transform.init(params))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
               rounded, wanted)
  clipped = dp_sgd.dp_sgd_gradient(
      lambda *given: victim.loss(*given), params, *BATCH, jax.random.key(0),
      clip_norm=0.1, noise_multiplier=0.0)
  noises = []
  for step in (0, 1):
    _, private = moved(victim, defense=DP_SGD, step=step)
    noises.append(np.concatenate([
        np.ravel(a - b) for a, b in zip(jax.tree.leaves(private),
                                        jax.tree.leaves(clipped))]))
  assert abs(np.corrcoef(*noises)[0, 1]) < 0.05
  for noise in noises:
    np.testing.assert_allclose(noise.std(), 0.1 / 4, rtol=0.05)


def test_dp_sgd_of_a_batch_norm_is_refused(tmp_path):
  with pytest.raises(UserError, match='gradient of one clip'):
    training.run(_config(
        victim__norm='batch', defense__dp_sgd__clip_norm=1.0), tmp_path)


def test_running_statistics_move_and_do_not_decay(tmp_path):
  training.run(_config(victim__norm='fixed', num_steps=2, weight_decay=1.0,
                    optimizer='sgd'), tmp_path)
  first = weights.read(tmp_path / 'snapshots' / 'step_0.safetensors')
  for name, leaf in _saved(tmp_path).items():
    if name.startswith('batch_stats'):
      assert not np.array_equal(leaf, first[name]), name


def test_an_extractor_learns_to_tell_clips_apart_and_is_frozen(tmp_path):
  result = training.run(_config('train_extractor', data__num_frames=8,
                             data__image_size=8), tmp_path)
  assert (result['num_clips_train'], result['num_clips_test']) == (70, 10)
  path = tmp_path / 'params.safetensors'
  victim = victims.build('frozen', (2, 8, 8, 3), 5, preset='tiny',
                         weights_file=str(path))
  assert 'params.safetensors' in victim.known
  assert _saved(tmp_path)['head/kernel'].shape == (8, 10)
  assert not any(name.startswith('stage') for name in jax.eval_shape(
      victim.init, jax.random.key(0)))


def test_the_attack_takes_the_trained_weights(run, tmp_path):
  checkpoint = str(run[0] / 'params.safetensors')
  audit.run(attack_config(victim__checkpoint=checkpoint,
                             victim__num_classes=10), tmp_path)
  leak = storage.load(tmp_path / 'leak.safetensors')
  assert leak.public.weights == checkpoint
  np.testing.assert_array_equal(leak.params['head']['kernel'],
                                _saved(run[0])['head/kernel'])


@pytest.mark.parametrize('overrides, message', [
    ({'victim__num_classes': 11}, 'head.* has shape .*10'),
    ({'victim__num_classes': 10, 'victim__preset': 'small'}, 'has shape'),
    ({'victim__checkpoint': '/no/such.safetensors'}, '/no/such'),
])
def test_weights_that_do_not_fit_are_told(overrides, message, run, tmp_path):
  own = {'victim__checkpoint': str(run[0] / 'params.safetensors')} | overrides
  with pytest.raises(UserError, match=message):
    audit.run(attack_config(**own), tmp_path)
  assert not (tmp_path / 'leak.json').exists()


@pytest.mark.parametrize('overrides, message', [
    ({'batch_size': 3, 'backend__num_devices': 2}, 'does not divide'),
    ({'num_steps': 0}, 'num_steps is 0'),
    ({'snapshots': (2.0,)}, 'snapshots is .*from 0 up to 1'),
    ({'learning_rate': float('inf')}, 'learning_rate is inf'),
    ({'learning_rate': -1.0}, 'learning_rate is -1.0.*above 0'),
    ({'warmup_steps': 6}, 'below num_steps, 6'),
    ({'data__image_siz': 8}, "Did you mean 'image_size'"),
    ({'augment__mirror': (3,)}, 'takes pairs of the classes'),
    ({'optimizer': 'lion'}, 'optimizer .*adamw'),
    ({'augment__mirror': (('left', 'right'),)}, 'pan_left'),
])
def test_bad_training_is_told(overrides, message, tmp_path):
  with pytest.raises(UserError, match=message):
    training.run(_config(**overrides), tmp_path)


def test_a_turned_clip_gets_the_label_of_its_class():
  names = ('left', 'right', 'still')
  change = augment.build(names, colours=False, shift=0,
                         mirror=(('left', 'right'),), upside_down=None,
                         reverse=None)
  clips = np.random.default_rng(0).uniform(size=(32, 2, 4, 4, 3))
  labels = np.arange(32) % 3
  changed = change(jax.random.key(0), Batch(clips, labels))
  turned = 0
  for clip, label, before, old in zip(*changed, clips, labels):
    mirrored = np.allclose(clip, before[:, :, ::-1])
    turned += mirrored
    np.testing.assert_allclose(clip, before[:, :, ::-1] if mirrored else before)
    assert label == (1, 0, 2)[old] if mirrored else label == old
  assert 0 < turned < 32
