"""Every example runs, in a tiny setting; notebooks as plain Python."""

import importlib.util
import json

import jax
import numpy as np
import pytest

import vidleak_jax as vl
from tests.helpers import ROOT
from vidleak_jax import recipes
from vidleak_jax.experiments.sweep import spaces
from vidleak_jax.types import Victim

EXAMPLES = ROOT / 'examples'


def _load(name):
  spec = importlib.util.spec_from_file_location(name, EXAMPLES / f'{name}.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def _notebook(name, **parameters):
  """Runs the cells of a notebook; returns its names.

  Parameters replace those of the cell that is tagged so.
  """
  names = {}
  cells = json.loads((EXAMPLES / f'{name}.ipynb').read_text())['cells']
  for i, cell in enumerate(cells):
    if cell['cell_type'] != 'code':
      continue
    assert not cell['outputs'], 'Clear the outputs of a notebook.'
    exec(compile(''.join(cell['source']), f'{name}, cell {i}', 'exec'), names)
    if 'parameters' in cell['metadata'].get('tags', ()):
      assert set(parameters) <= set(names)
      names |= parameters
  return names


@pytest.fixture(autouse=True)
def no_screen(monkeypatch):
  monkeypatch.setenv('MPLBACKEND', 'Agg')


def test_an_attack_of_30_lines():
  module = _load('write_an_attack')
  scores = module.main(num_frames=2, image_size=8)
  assert scores.num_exact == 1
  lines = (EXAMPLES / 'write_an_attack.py').read_text().splitlines()
  first = lines.index('class Division(Attack):')
  last = next(i for i, line in enumerate(lines) if line.startswith('class Net'))
  assert len([line for line in lines[first:last] if line.strip()]) <= 30


def test_an_attack_on_what_it_was_not_made_for(victim, leak):
  attack = _load('write_an_attack').Division()
  assert 'no dense layer' in attack.requires(victim, leak)[0]


def test_a_sweep_and_its_plot(tmp_path):
  module = _load('sweep_plot')
  config = recipes.load(str(EXAMPLES / 'sweep_plot.py'))
  assert len(spaces.trials(config.to_dict())) == 10
  rows = [{'status': 'done', 'defense.noise_std': noise, 'psnr': 30 - i,
           'psnr_mean_frame': 12.0, 'psnr_unrelated': 11.0}
          for i, noise in enumerate((1e-3, 1e-2))] + [{'status': 'failed'}]
  (tmp_path / 'results.jsonl').write_text(
      ''.join(json.dumps(row) + '\n' for row in rows))
  assert module.plot(tmp_path).read_bytes()[1:4] == b'PNG'


@pytest.mark.slow
def test_a_first_audit():
  names = _notebook('first_audit', NUM_FRAMES=4, IMAGE_SIZE=16,
                    BUDGET_SECONDS=1e-3)
  assert isinstance(names['victim'], Victim)
  assert names['scores'].psnr[0] > 10 + names['scores'].psnr_mean_frame[0]


@pytest.mark.slow
def test_defences_compared():
  names = _notebook(
      'compare_defenses', DEFENSES={'none': {}, 'noise': {'noise_std': 1.0}},
      PLAIN=vl.attacks.feature_matching(num_steps=50),
      DEFENDED=vl.attacks.ig(num_steps=20))  # it compiles sooner
  plain, noisy = (names['scores'][name].psnr[0] for name in ('none', 'noise'))
  assert plain > noisy + 3 and np.isfinite(noisy)


def test_a_torch_client():
  pytest.importorskip('torch')
  scores = _load('torch_network').main(
      attack=vl.attacks.ig(num_steps=300))
  assert scores.psnr[0] > 5 + max(
      scores.psnr_mean_frame[0], scores.psnr_unrelated[0])


def test_the_clients_of_flower_train_and_one_is_attacked():
  pytest.importorskip('flwr')
  module = _load('flower_client')
  params = module.network().init(jax.random.key(0))
  clips, labels = module.private_clips(module.WATCHED)
  sent = module.unpack(module.pack(params))
  leak = module.to_leak(sent, module.train(
      sent, clips, labels, np.array([2, 0, 3, 1])))
  found, scores = module.attack(leak, num_steps=20)
  assert found.gradient_residual[0] < 1 and scores.label_accuracy == 1
