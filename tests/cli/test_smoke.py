"""Every program runs from its flags to its files, on the smallest inputs."""

import functools
import json
import re

import numpy as np
import pytest
from absl import app, flags

from tests.helpers import ROOT
from vidleak_jax.attacks.features import scenes
from vidleak_jax.cli import commands
from vidleak_jax.experiments import paper, training

TINY = ('--config.attack.name=feature_matching',
        '--config.data.name=photo_motion', '--config.data.split=test',
        '--config.data.num_frames=4', '--config.data.image_size=16',
        '--config.backend.num_devices=1')


@pytest.fixture
def run(monkeypatch, capsys):
  """Runs a program in this process; returns what it printed."""
  app.define_help_flags()  # absl defines them once, so they must outlive a run

  def start(name, *words):
    monkeypatch.setattr('sys.argv', [f'vidleak {name}', *map(str, words)])
    set_aside = _take_benchmarks_flags()
    try:
      with pytest.raises(SystemExit) as ended:
        commands.start(name)
    finally:
      _forget_flags()
      for script, flag in set_aside:
        flags.FLAGS[flag.name] = flag
        flags.FLAGS.register_flag_by_module(script, flag)
    out, err = capsys.readouterr()
    assert not ended.value.code, err
    return out

  return start


def _take_benchmarks_flags():
  """Removes and returns flags of benchmarks that other tests have imported."""
  scripts = {file.stem for file in (ROOT / 'benchmarks').glob('*.py')}
  taken = [(script, flags.FLAGS[name]) for name in flags.FLAGS
           for script in [flags.FLAGS.find_module_defining_flag(name)]
           if script in scripts]
  for _, flag in taken:
    delattr(flags.FLAGS, flag.name)
  return taken


def _forget_flags():
  """Removes the flags of a program, and keeps those of libraries."""
  ours = [name for name in flags.FLAGS if name.partition('.')[0] == 'config'
          or flags.FLAGS.find_module_defining_flag(name).startswith('vidleak')]
  for name in ours:
    delattr(flags.FLAGS, name)


@pytest.mark.slow
def test_attack_then_its_leak_alone(run, tmp_path):
  tiny = ('--config=clip_c3d:tiny', *TINY, '--config.attack.num_steps=2')
  out = run('attack', *tiny, f'--workdir={tmp_path / "a"}')
  assert 'report' in out
  result = json.loads((tmp_path / 'a' / 'result.json').read_text())
  assert result['num_steps'] == 2
  again = run('attack', *tiny, f'--workdir={tmp_path / "a"}', '--json')
  assert json.loads(again) == result  # of a finished run, and nothing else
  run('attack', *tiny, f'--workdir={tmp_path / "b"}',
      f'--leak={tmp_path / "a" / "leak.safetensors"}')
  with np.load(tmp_path / 'a' / 'recovered.npz') as seen, np.load(
      tmp_path / 'b' / 'recovered.npz') as blind:
    np.testing.assert_allclose(seen['clips'], blind['clips'], atol=1e-6)


@pytest.mark.slow
def test_audit_within_a_budget(run, tmp_path):
  out = run('audit', '--config=clip_c3d:tiny', *TINY, '--budget=2s',
            '--config.attack.num_steps=2', f'--workdir={tmp_path}')
  assert 'verdict: ' in out and 'audit.html' in out
  result = json.loads((tmp_path / 'audit.json').read_text())
  assert result['budget_seconds'] == 2
  assert {'name', 'gradient_residual', 'psnr'} <= set(result['attacks'][0])


@pytest.mark.slow
def test_sweep_of_two_then_its_report(run, tmp_path):
  config = tmp_path / 'two.py'
  config.write_text('''
from vidleak_jax.recipes import sweeps
from vidleak_jax.recipes.sweeps import tiny

def get_config():
  config = tiny.get_config()
  config.attack.num_steps, config.attack.chunk_steps = 2, 2
  config.sweep = sweeps.space(grid={'seed': range(2)})
  return config
''')
  folder = tmp_path / 'sweep'
  out = run('sweep', f'--config={config}', f'--workdir={folder}', '--workers=1')
  assert '2 trials done, 0 failed' in out
  out = run('report', f'--workdir={folder}')
  assert (folder / 'summary.html').exists()
  assert 'summary.html' in out


def test_enhance_enlarges_recovered_clips(run, tmp_path):
  clips = np.random.default_rng(0).uniform(size=(1, 2, 8, 8, 3))
  np.savez(tmp_path / 'recovered.npz', clips=clips.astype(np.float32))
  out = run('enhance', f'--input={tmp_path / "recovered.npz"}',
            f'--output={tmp_path / "enhanced.npz"}', '--noise=0.015',
            '--num_devices=1')
  assert '1 clips of 2 frames, 32x32' in out
  with np.load(tmp_path / 'enhanced.npz') as saved:
    assert saved['enhanced'].shape == (1, 2, 32, 32, 3)


@pytest.mark.slow
def test_paper_on_one_frame(run, tmp_path, monkeypatch):
  """The rows that do not take minutes, and no fault."""
  monkeypatch.setattr(paper, 'ROWS', tuple(
      row for row in paper.ROWS if row.config == 'lenet_ours'))
  monkeypatch.setattr(paper, 'FROZEN', ())
  monkeypatch.setattr(paper, 'ENLARGED', paper.ENLARGED[:1])
  monkeypatch.setattr(paper.faults, 'measure', lambda *_: ['one'])
  out = run('paper', f'--workdir={tmp_path}', '--config.data.name=photo_motion',
            '--config.data.split=test', '--config.data.num_frames=1',
            '--config.backend.num_devices=1')
  assert out.splitlines()[-1] == str(tmp_path / 'paper.md')
  document = (tmp_path / 'paper.md').read_text()
  assert '| enhanced, no reference |' in document and '1. one' in document


@pytest.mark.slow
def test_train_victim_then_attack_what_it_made(run, tmp_path, monkeypatch):
  monkeypatch.setattr(training.data, 'train_arrays', functools.partial(
      training.data.train_arrays, limit=10))
  out = run('train victim', f'--workdir={tmp_path / "c3d"}',
            '--config.data.num_frames=4', '--config.victim.preset=tiny',
            '--config.clips_per_video=1', '--config.num_steps=2',
            '--config.chunk_steps=2', '--config.batch_size=4',
            '--config.warmup_steps=1', '--config.backend.num_devices=1')
  assert re.search(r'accuracy on test clips: \d+\.\d%', out)
  run('attack', '--config=clip_c3d:tiny', *TINY, '--config.attack.num_steps=2',
      '--config.victim.num_classes=10', f'--workdir={tmp_path / "late"}',
      f'--config.victim.checkpoint={tmp_path / "c3d" / "params.safetensors"}')
  assert (tmp_path / 'late' / 'result.json').exists()


@pytest.mark.slow
def test_train_superres_then_enhance_with_it(run, tmp_path):
  folder = tmp_path / 'superres'
  out = run('train superres', f'--workdir={folder}', '--config.num_devices=1',
            '--config.network.frames=3', '--config.network.width=4',
            '--config.network.num_blocks=1', '--config.pool.num_clips=4',
            '--config.pool.size=32', '--config.batch_size=2',
            '--config.chunk_steps=2', '--config.validate_steps=2',
            '--config.stage1.num_steps=2', '--config.validation.num_clips=1',
            '--config.validation.num_frames=3')
  assert 'bicubic' in out
  np.savez(tmp_path / 'small.npz', clips=np.full((1, 1, 8, 8, 3), 0.5, 'f'))
  run('enhance', f'--input={tmp_path / "small.npz"}', '--num_devices=1',
      f'--output={tmp_path / "large.npz"}',
      f'--weights={folder / "stage1.safetensors"}')
  assert (tmp_path / 'large.npz').exists()


@pytest.mark.slow
def test_train_blend_writes_weights(run, tmp_path, monkeypatch):
  monkeypatch.setattr(scenes, 'scenes', functools.partial(
      scenes.scenes, num_textures=8))
  out = run('train blend', f'--workdir={tmp_path}', '--config.num_scenes=4',
            '--config.num_steps=2', '--config.batch_size=2',
            '--config.num_frames=1', '--config.num_references=1')
  assert str(tmp_path / 'blend.safetensors') in out
  assert (tmp_path / 'blend.safetensors').exists()
