"""The main job end to end on the embedded data set, at tiny size."""

import importlib
import json
import shutil

import numpy as np
import pytest

from tests.helpers import ROOT, mostly_quick
from vidleak_jax.attacks.base import Cost, Outcome
from vidleak_jax.attacks.matching import recipe
from vidleak_jax.attacks.matching.feature_matching import FeatureMatching
from vidleak_jax.attacks.matching.gradient_matching import InvertingGradients
from vidleak_jax.experiments import audit, leaking
from vidleak_jax.leaks import storage
from vidleak_jax.types import Recovery, UserError

FILES = {'config.json', 'leak.safetensors', 'leak.json', 'recovered.npz',
         'result.json', 'metrics.jsonl', 'comparison.mp4', 'comparison.png',
         'report.html', 'checkpoints'}
REAL_KEYS = {
    'psnr', 'ssim', 'psnr_per_frame', 'ssim_per_frame', 'psnr_unrelated',
    'psnr_mean_frame', 'label_accuracy', 'attack', 'match_loss', 'objective',
    'gradient_residual', 'num_restarts',
    'num_steps', 'num_devices', 'device_kind', 'seconds_compile',
    'seconds_attack', 'restart_steps_per_second', 'peak_memory_bytes', 'seed'}


def config(**overrides):
  """The default at tiny size; keys such as `attack__name` reach inside."""
  config = importlib.import_module('vidleak_jax.recipes.default').get_config()
  tiny = {'data__num_frames': 4, 'data__image_size': 16,
          'data__original_size': 32, 'victim__preset': 'tiny',
          'backend__num_devices': 1, 'attack__name': 'ig',
          'attack__num_steps': 4,
          'attack__chunk_steps': 2}
  with config.unlocked():
    config.update_from_flattened_dict(
        {k.replace('__', '.'): v for k, v in (tiny | overrides).items()})
  return config.to_dict()


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  folder = tmp_path_factory.mktemp('run')
  return folder, audit.run(config(), folder)


def test_a_workdir_holds_what_is_promised(run):
  folder, result = run
  assert FILES <= {file.name for file in folder.iterdir()}
  assert json.loads((folder / 'result.json').read_text()) == result
  assert {key for key in REAL_KEYS if result.get(key) is not None} == REAL_KEYS
  assert result['label_accuracy'] == 1.0
  with np.load(folder / 'recovered.npz') as saved:
    assert saved['clips'].shape == (1, 4, 16, 16, 3)
    assert saved['clips'].dtype == np.float32
    assert 0 <= saved['clips'].min() and saved['clips'].max() <= 1
    assert saved['labels'].shape == (1,)
  rows = (folder / 'metrics.jsonl').read_text().splitlines()
  assert [json.loads(row)['step'] for row in rows] == [2, 4]
  assert {'match', 'spatial_tv', 'temporal_tv', 'best_loss',
          'seconds'} <= json.loads(rows[0]).keys()


def test_a_finished_run_is_not_run_again(run):
  folder, result = run
  before = (folder / 'result.json').stat().st_mtime_ns
  assert audit.run(config(), folder) == result
  assert (folder / 'result.json').stat().st_mtime_ns == before


def test_a_workdir_of_another_config_is_refused(run):
  folder, _ = run
  with pytest.raises(UserError, match=r'seed was 0, now 1'):
    audit.run(config(seed=1), folder)


def test_from_a_leak_alone(run, tmp_path, monkeypatch):
  """The recovery is the same with no truth on the machine: it uses none."""
  folder, _ = run
  shutil.copy(folder / 'leak.safetensors', tmp_path)
  shutil.copy(folder / 'leak.json', tmp_path)
  monkeypatch.setattr(audit.data, 'load', None)
  result = audit.run(config(), tmp_path / 'blind', leak_path=tmp_path)
  assert 'psnr' not in result
  for name in ('clips', 'labels'):
    with np.load(folder / 'recovered.npz') as saved:
      expected = saved[name]
    with np.load(tmp_path / 'blind' / 'recovered.npz') as saved:
      np.testing.assert_array_equal(saved[name], expected)


@pytest.mark.parametrize('overrides', [
    {'attack__name': 'dlg'},
    {'attack__name': 'idlg', 'federated__labels_known': True},
    {'federated__message': 'batch', 'data__num_clips': 2},
    {'federated__algorithm': 'fedavg', 'federated__local_steps': 2},
    {'victim__name': 'lenet', 'federated__message': 'frame',
     'data__labels': 'random', 'data__num_frames': 2},
    {'defense__clip_norm': 1.0, 'defense__noise_std': 0.001},
], ids=lambda overrides: '-'.join(map(str, overrides.values())))
@pytest.mark.slow
def test_every_setting_runs(overrides, tmp_path):
  result = audit.run(config(**overrides), tmp_path)
  assert 0 < result['psnr'] < 100
  public = storage.load(tmp_path).public
  assert public.federated.message == overrides.get(
      'federated__message', 'clip')


@pytest.mark.slow
def test_audits_of_one_shape_share_a_program(tmp_path, monkeypatch):
  """Seeds, strengths and rates differ; the answers are those of lone runs."""
  asked = [config(seed=3), config(seed=4, attack__ig__learning_rate=0.02),
           config(attack__ig__priors__spatial_tv=0.5, defense__noise_std=0.0),
           config(seed=5, data__split='train')]
  assert len({audit.shape_of(each) for each in asked}) == 1
  traced = []
  build = recipe.build

  def counted(*args, **options):
    attack = build(*args, **options)

    def update(state, leak):
      traced.append(1)
      return attack.update(state, leak)
    return attack._replace(update=update)
  monkeypatch.setattr(recipe, 'build', counted)
  folders = [tmp_path / str(i) for i in range(4)]
  results = audit.run_many(asked, folders, tmp_path / 'shared')
  # Once for the memory that it needs, the terms' shapes and the loop.
  assert len(traced) <= 3
  monkeypatch.undo()
  for i, each in enumerate(asked):
    alone = audit.run(each, tmp_path / f'alone{i}')
    assert results[i]['psnr'] == pytest.approx(alone['psnr'], abs=1e-3)
    assert results[i]['seed'] == each['seed']
    assert FILES - {'checkpoints'} <= {f.name for f in folders[i].iterdir()}
  assert audit.run_many(asked, folders, tmp_path / 'shared') == results


def test_one_that_fails_does_not_stop_the_others(tmp_path):
  asked = [config(data__frame_stride=1),
           config(data__name='video_folder', data__dir='/no/such')]
  results = audit.run_many(
      asked, [tmp_path / 'a', tmp_path / 'b'], tmp_path / 'shared')
  assert results[0]['psnr'] > 0
  assert isinstance(results[1], UserError)
  assert not (tmp_path / 'b' / 'result.json').exists()


@pytest.mark.parametrize('overrides', [
    {'attack__num_steps': 5}, {'data__image_size': 8},
    {'attack__ig__optimizer': 'lbfgs'}, {'defense__noise_std': 0.1},
    {'attack__ig__priors__spatial_tv': 0.0}, {'victim__preset': 'small'}])
def test_other_programs_have_other_shapes(overrides, tmp_path):
  asked = [config(), config(**overrides)]
  with pytest.raises(UserError, match='different shapes'):
    audit.run_many(asked, [tmp_path / 'a', tmp_path / 'b'], tmp_path)


AUTO = {'attack__name': 'auto', 'attack__num_steps': 2,
        'attack__auto__polish_steps': 0,
        'attack__auto__only': ('feature_matching', 'ig', 'transformer')}


@pytest.fixture(scope='module')
def auto(tmp_path_factory):
  folder = tmp_path_factory.mktemp('auto')
  return folder, audit.run(config(**AUTO), folder)


def test_auto_ranks_what_applies_and_shows_the_winner(auto):
  folder, result = auto
  assert {file.name for file in folder.iterdir()} >= FILES
  tried = {each['name']: each for each in result['attempts']}
  assert set(tried) == {'feature_matching', 'ig', 'transformer'}
  assert tried['transformer']['why_not']  # C3D has no tokens
  ran = [each for each in result['attempts'] if not each['why_not']]
  best = min(ran, key=lambda each: each['gradient_residual'])
  assert result['attack'] == best['name']
  assert result['gradient_residual'] == pytest.approx(best['gradient_residual'])
  assert result['verdict'] in ('recovered', 'partly') or (
      'nothing found' in result['verdict'])
  own = folder / 'checkpoints' / result['attack']
  assert (folder / 'metrics.jsonl').read_text() == (
      own / 'metrics.jsonl').read_text()
  with np.load(folder / 'recovered.npz') as saved, np.load(
      own / 'outcome.npz') as kept:
    np.testing.assert_array_equal(saved['clips'], kept['clips'][:, 0])


def test_auto_goes_on_with_the_attack_that_was_cut_short(
    auto, tmp_path, monkeypatch):
  ran, run = [], InvertingGradients.run

  def cut(self, problem, effort):
    ran.append(self.name)
    if len(ran) == 1:
      raise KeyboardInterrupt
    return run(self, problem, effort)
  monkeypatch.setattr(InvertingGradients, 'run', cut)
  with pytest.raises(KeyboardInterrupt):
    audit.run(config(**AUTO), tmp_path)
  assert not (tmp_path / 'result.json').exists()
  monkeypatch.setattr(FeatureMatching, 'run', None)  # it is done
  result = audit.run(config(**AUTO), tmp_path)
  assert ran == ['ig', 'ig']
  assert [each['gradient_residual'] for each in result['attempts']] == [
      each['gradient_residual'] for each in auto[1]['attempts']]


@pytest.mark.slow
def test_nothing_is_printed_unless_it_is_asked_for(tmp_path, capfd):
  audit.run(config(attack__num_steps=2, data__original_size=64,
                   superres__name='clip', superres__num_references=1), tmp_path)
  out, err = capfd.readouterr()
  assert out == '' and err == ''


def test_say_and_progress_hear_of_the_run(tmp_path):
  said, stages = [], []
  audit.run(config(), tmp_path, log_fn=said.append,
            progress=lambda stage, done, total, **_: stages.append(
                (stage, done, total)))
  assert any('gradient' in text or 'update' in text for text in said)
  assert [each for each in stages if each[1]] == [
      ('attack', 2, 4), ('attack', 4, 4)]


def test_the_truth_orders_nothing_before_super_resolution(
    tmp_path, monkeypatch):
  """The attack finds the clips of one update in reverse."""
  asked = config(
      data__num_clips=2, data__original_size=64, federated__message='batch',
      superres__name='clip', superres__num_references=1)
  sample = leaking.load_data(audit.Audit.from_dict(asked))
  found = np.clip(sample.batch.clips[None, ::-1] + 0.01, 0, 1)
  labels = np.asarray(sample.batch.labels)[None, ::-1]
  given = []

  def solve(problems, *_):
    return [Outcome(Recovery(found, labels, np.zeros(1),
                             gradient_residual=np.zeros(1)), Cost(), {})
            for _ in problems]

  def enhance(clips, references, **_):
    given.append((clips, references))
    return np.repeat(np.repeat(clips, 4, 2), 4, 3) * 0.5

  monkeypatch.setattr(audit.attacks, 'solve', solve)
  monkeypatch.setattr(audit.enlarging.superres, 'enhance', enhance)
  audit.run(asked, tmp_path / 'seen')
  audit.run(asked, tmp_path / 'blind', leak_path=tmp_path / 'seen')
  for clips, references in given:  # alike, whether the truth is at hand or not
    np.testing.assert_array_equal(clips, found[0])
    # By resemblance: each recovery gets frames of its own scene.
    np.testing.assert_array_equal(references, sample.references[::-1])
  with np.load(tmp_path / 'seen' / 'recovered.npz') as saved:
    for name in ('clips', 'enhanced'):
      assert saved[name].shape[0] == 2
    np.testing.assert_array_equal(saved['clips'], found[0, ::-1])
    np.testing.assert_array_equal(saved['enhanced'][:, :, ::4, ::4],
                                  saved['clips'] * np.float32(0.5))
    np.testing.assert_array_equal(saved['labels'], sample.batch.labels)
  with np.load(tmp_path / 'blind' / 'recovered.npz') as saved:
    np.testing.assert_array_equal(saved['clips'], found[0])


@pytest.mark.parametrize('references', mostly_quick([0, 2], [2]))
def test_recoveries_are_enlarged_and_scored(references, tmp_path):
  result = audit.run(config(
      data__original_size=64, superres__name='clip',
      superres__num_references=references), tmp_path)
  with np.load(tmp_path / 'recovered.npz') as saved:
    assert saved['enhanced'].shape == (1, 4, 64, 64, 3)
  for key in ('psnr_enhanced', 'ssim_enhanced', 'psnr_bicubic', 'ssim_bicubic',
              'flicker_enhanced', 'flicker_bicubic'):
    assert np.isfinite(result[key])
  assert storage.load(tmp_path).public.num_reference_frames == references


def test_true_frames_alone_are_enlarged(tmp_path):
  result = audit.run(config(
      data__original_size=64, superres__name='clip', superres__noise=0.0,
      attack__name='none'), tmp_path)
  assert result['psnr_enhanced'] > result['psnr_bicubic']
  assert not (tmp_path / 'leak.json').exists()


@pytest.mark.parametrize('overrides, message', [
    ({'victim__name': 'alexnet'}, 'Unknown victim .*c3d'),
    ({'victim__preset': 'huge'}, 'preset .*tiny'),
    ({'victim__activation': 'swish'}, 'activation .*leaky_relu'),
    ({'attack__name': 'magic'}, 'attack.name .*frozen_features.*ig, dlg, idlg'),
    ({'attack__name': 'anchored'}, 'now called feature_matching'),
    ({'attack__auto__only': ('feature_maching',)}, "mean 'feature_matching'"),
    ({'attack__ig__learning_rate': float('nan')}, 'learning_rate is nan'),
    ({'attack__ig__optimizer': 'sgd'}, 'optimizer .*adam'),
    ({'attack__ig__schedule': 'warp'}, 'schedule .*cosine'),
    ({'attack__ig__distance__cosine': 0.0,
      'attack__ig__distance__relative_l2': 0.0}, 'Every distance weighs 0'),
    ({'federated__message': 'video'}, 'federated.message .*clip'),
    ({'federated__algorithm': 'fedprox'}, 'algorithm .*fedavg'),
    ({'backend__lowering': 'fft'}, 'lowering .*matmul'),
    ({'backend__num_devices': 99}, 'num_devices=99'),
    ({'data__image_size': 0}, 'image_size is 0'),
    ({'data__image_size': 15}, 'even'),
    ({'data__name': 'video_folder', 'data__dir': '/no/such'}, '/no/such'),
    ({'attack__num_restarts': 0}, 'num_restarts'),
    ({'superres__name': 'esrgan'}, 'superres.name .*clip'),
    ({'superres__name': 'clip'}, 'enlarges by 4'),
    ({'superres__num_references': 99}, 'Ask for fewer'),
    ({'attack__num_steps': -1}, 'num_steps'),
])
def test_bad_input_is_told_and_leaves_nothing_half_written(
    overrides, message, tmp_path):
  with pytest.raises(UserError, match=message):
    audit.run(config(**overrides), tmp_path)
  assert not (tmp_path / 'result.json').exists()
  assert not list(tmp_path.glob('.[0-9]*'))  # temporary names


@pytest.mark.parametrize(
    'name', sorted(str(file.relative_to(ROOT).with_suffix(''))
                   for file in (ROOT / 'configs').rglob('*.py')
                   if file.name != '__init__.py'))
def test_every_config_loads(name):
  module = importlib.import_module(name.replace('/', '.'))
  assert module.get_config().seed is not None
