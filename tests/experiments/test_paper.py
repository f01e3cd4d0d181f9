"""The paper's rows see the same clips, and its faults show in our figures."""

import importlib
import re

import numpy as np
import pytest

from vidleak_jax import data
from vidleak_jax.experiments import paper
from vidleak_jax.experiments.leaking import Audit
from vidleak_jax.experiments.paper import faults
from vidleak_jax.models import heads
from vidleak_jax.types import UserError
from vidleak_jax.victims import base


@pytest.fixture(scope='module')
def sample():
  return data.load(
      'photo_motion', num_clips=2, num_frames=12, frame_stride=1,
      image_size=16, original_size=64, seed=0, split='test')


def _asked(**overrides):
  module = importlib.import_module('vidleak_jax.recipes.paper.lenet_ours')
  asked = Audit.from_dict(module.get_config().to_dict())
  return asked.replace(data=asked.data.replace(
      name='photo_motion', split='test', **overrides))


def test_rows_differ_in_the_attack_and_the_enlargement_alone():
  asked = _asked()
  for row in paper.ROWS + paper.ENLARGED + paper.FROZEN:
    own = paper._audit(row.config, asked).to_dict()
    assert {k for k, v in asked.to_dict().items() if own[k] != v} <= {
        'attack', 'superres'} | (
            {'victim', 'federated'} if row in paper.FROZEN else set()), row


def test_the_document_has_every_row_and_the_floors(tmp_path, monkeypatch):
  """The attack itself is replaced by the truth and one grey level of error."""
  asked = _asked(num_frames=2, original_size=64)

  def run(asked, folder, progress):
    del progress
    truth = paper.load_data(asked)
    folder.mkdir()
    np.savez(folder / 'recovered.npz',
             clips=np.clip(truth.batch.clips + 1 / 255, 0, 1),
             enhanced=truth.originals)
    return {'feature_relative_error': 3e-8, 'psnr': 12.3, 'ssim': 0.2,
            'seconds_attack': 4.0, 'label_accuracy': 1.0, 'num_devices': 1,
            'device_kind': 'cpu'}

  monkeypatch.setattr(paper.audit, 'run', run)
  monkeypatch.setattr(paper.faults, 'measure', lambda *_: ['a', 'b'])
  document = tmp_path / 'docs' / 'paper.md'
  paper.write(asked, tmp_path, document)
  rows = {line.split(' | ')[0].strip('| '): line.strip('| ').split(' | ')
          for line in document.read_text().splitlines()
          if line.startswith('| ')}
  assert {row.label for row in paper.ROWS + paper.ENLARGED} <= rows.keys()
  ours = rows['ours: closed form, then polish']
  assert float(ours[3]) == pytest.approx(48.1, abs=0.3)  # 20 log10(255)
  assert ours[-1] == '2.0'  # seconds a frame
  assert rows['enhanced, no reference'][2:4] == ['inf', '100.0']
  assert rows['feature matrix'][2:4] == [
      '3e-08', '12.3, below the floor']
  assert float(rows['floor: unrelated clip'][3]) < 20
  text = document.read_text()
  assert '2. b' in text and 'at most 100 dB' in text
  assert 'Exact clips, of 1: DLG as published 0' in text


def _figures(sentence):
  return [float(x) for x in re.findall(r'\d+(?:\.\d+|e-\d+)?', sentence)]


def test_the_formula_wraps_and_needs_bytes():
  a, b = (np.random.default_rng(s).integers(0, 256, (50, 64, 64, 3), np.uint8)
          for s in (1, 2))
  assert faults.psnr_uint8_wrapped(a, b) == pytest.approx(27.9, abs=.05)
  with pytest.raises(UserError, match='needs uint8'):
    faults.psnr_uint8_wrapped(a / 255, b)


def test_the_formula_calls_noise_a_match(sample):
  noise = np.random.default_rng(0).uniform(size=(2, 4, 16, 16, 3))
  assert faults.wrapped_psnr(*noise) == pytest.approx(27.9, abs=0.2)
  assert faults.wrapped_psnr(noise, noise) == np.inf
  unrelated, true = _figures(faults.wrapped(sample))[2:4]
  assert unrelated > 25 and true < 20


def test_a_perfect_recovery_fails_by_the_faults(sample):
  ssim = float(re.search(r'SSIM (\S+) instead', faults.order(sample))[1])
  assert ssim < 1
  assert _figures(faults.geometry(sample))[2] < 30
  assert _figures(faults.rescaling(sample))[0] < 60


def test_the_objective_is_random_and_the_feature_exact(sample, monkeypatch):
  def frozen(head, clip):
    del clip
    module = heads.HEADS[head].make(100, 'relu', 'matmul')
    features = np.random.default_rng(0).uniform(
        0.1, 1, (1, 1, 64)).astype(np.float32)
    return base.from_module(module, (1, 64), 100), features

  monkeypatch.setattr(faults, '_frozen', frozen)
  sentence = faults.dropout(sample)
  missed = float(re.search(r'(\d+)% of its norm', sentence)[1])
  errors = [float(x) for x in re.findall(r'\de-\d+', sentence)]
  assert missed > 5
  assert len(errors) == 2 and max(errors) < 1e-5


def test_foreign_weights_cannot_match(sample, monkeypatch):
  def frozen(head, clip):
    del head, clip
    module = heads.Mlp(10, (8,), 'relu')
    return (base.from_module(module, (2, 6), 10),
            np.ones((1, 2, 6), np.float32))

  monkeypatch.setattr(faults, '_frozen', frozen)
  own, theirs = re.findall(r'(\d+)%', faults.foreign_weights(sample))
  assert int(own) > 10 and theirs == '0'
