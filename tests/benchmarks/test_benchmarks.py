"""The benchmarks run, compare equal values, and count what they say."""

import importlib
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from absl import flags

from tests.helpers import ROOT
from vidleak_jax.types import UserError

CASE = (2, 8, 8, 3), 2, ('c3d', 'tiny')
KEYS = {'name', 'shape', 'restarts', 'ms_per_restart_step', 'peer', 'ratio',
        'ceiling_share', 'gradient_gap', 'num_devices', 'device_kind', 'jax',
        'seconds_compile', 'load'}


@pytest.fixture(scope='module')
def load():
  """Imports a benchmark as its own command line does: each defines --quick."""
  folder = str(ROOT / 'benchmarks')
  sys.path.insert(0, folder)

  def fresh(name):
    if name not in sys.modules and 'quick' in flags.FLAGS:
      del flags.FLAGS.quick
    return importlib.import_module(name)
  yield fresh
  sys.path.remove(folder)


@pytest.fixture(scope='module')
def effort(load):
  return load('timing').Effort(seconds=0.01, blocks=2, limit=5)


@pytest.mark.slow
def test_our_row(load, effort):
  row, = load('restart_steps').compare(*CASE, jax.devices()[:2], effort, [])
  assert KEYS <= row.keys()
  assert row['peer'] == 'self' and row['ratio'] == 1.0
  assert row['num_devices'] == 2 and row['seconds_compile'] > 0
  assert row['gradient_gap'] < 1e-4
  assert 0 < row['ceiling_share'] < 1


@pytest.mark.slow
def test_choices_give_the_same_gradient(load, effort):
  rows = list(load('restart_steps').sweep(*CASE, jax.devices()[:1], effort))
  assert [(r['lowering'], r['restart_batch']) for r in rows] == [
      ('matmul', 1), ('matmul', 2), ('lax', 1)]
  assert max(row['gradient_gap'] for row in rows) < 1e-4


@pytest.mark.parametrize(('network', 'clip_shape', 'library'), [
    ('c3d', (2, 8, 8, 3), 'torch'),
    ('lenet', (1, 16, 16, 3), 'torch'),
    ('r2plus1d18', (4, 16, 16, 3), 'torchvision'),
    ('vivit', (4, 16, 24, 3), 'transformers'),
])
@pytest.mark.parametrize('name', ['torch', 'torch_vmap', 'breaching'])
def test_a_peer_does_the_same_work(load, name, network, clip_shape, library):
  for needed in (name.partition('_')[0], library):
    pytest.importorskip(needed, reason='needs the extra [peers]')
  problems = load('problem')
  problem = problems.build(clip_shape, (network, 'tiny'), 'matmul')
  peer = load('peers').build(name, problem, 2)
  peer.run(2)
  assert problems.gap(peer.gradient, problems.gradient(problem)) < 1e-4


@pytest.mark.parametrize(('network', 'said'), [
    (('r3d18', 'tiny'), 'c3d, lenet, r2plus1d18, vivit'),
    (('c3d', 'tiny_pooled'), 'preset without pooling'),
])
def test_a_victim_that_no_peer_has(load, network, said):
  pytest.importorskip('torch', reason='needs the extra [peers]')
  victim = SimpleNamespace(layers=())
  problem = SimpleNamespace(network=network, victim=victim)
  with pytest.raises(UserError, match=said):
    load('peers').build('torch', problem, 1)


def test_a_missing_peer_says_what_to_install(load, monkeypatch):
  monkeypatch.setitem(sys.modules, 'peers.torch_eager', None)
  with pytest.raises(UserError, match=r'\[peers\]'):
    load('peers').build('torch', None, 1)


def test_an_unknown_peer_lists_the_known(load):
  with pytest.raises(UserError, match='torch_compile, torch_vmap'):
    load('peers').build('tensorflow', None, 1)


def test_flops_are_those_of_seven_forward_passes(load):
  problems = load('problem')
  problem = problems.build((2, 8, 8, 3), ('c3d', 'tiny'), 'matmul')
  conv0 = 2 * 27 * 3 * 8 * (2 * 4 * 4)
  conv1 = 2 * 27 * 8 * 8 * (1 * 2 * 2)
  head = 2 * (1 * 2 * 2 * 8) * 10
  assert problems.flops(problem) == 7 * (conv0 + conv1 + head)


def test_blocks_are_taken_in_turns(load):
  timing, calls = load('timing'), []
  times = timing.interleave(
      {'a': lambda n: calls.append('a'), 'b': lambda n: calls.append('b')},
      timing.Effort(seconds=0, blocks=2, limit=5))
  assert calls[4:] == ['a', 'b', 'a', 'b']
  assert all(len(own) == 2 for own in times.values())


def test_no_new_round_after_the_limit(load):
  timing = load('timing')
  times = timing.interleave({'a': lambda n: None}, timing.Effort(0, 9, limit=0))
  assert len(times['a']) == 1


def test_a_gap_is_relative(load):
  gap = load('problem').gap
  assert gap(np.full(4, 2.2), np.full(4, 2.0)) == pytest.approx(0.1)


@pytest.mark.parametrize('case', ['8x32x32', '8x32:4', 'x:1', '8x32x32:many'])
def test_a_case_that_cannot_be_read(load, case):
  with pytest.raises(UserError, match='8x32x32:8'):
    load('problem').parse(case)


def test_restarts_that_do_not_divide(load, effort):
  rows = load('restart_steps').compare(*CASE, jax.devices()[:3], effort, [])
  with pytest.raises(UserError, match=r'2 restarts .* 3 devices'):
    next(rows)


def test_the_page_has_a_table_of_each_and_keeps_its_notes(load, tmp_path):
  page = tmp_path / 'performance.md'
  page.write_text('stale\n## Notes\nkept\n')
  load('performance').write({
      'cold_start': [{'case': 'quickstart', 'seconds_first': 5.74,
                      'seconds_second': 2.406}],
      'time_to_quality': [{'attack': 'ig', 'restarts': 1, 'steps': 9,
                           'seconds_to_20_db': None,
                           'course': [[0.1, 12.0], [0.2, 13.0]]}],
      'restart_steps': [{'peer': 'self', 'victim': 'c3d', 'restarts': 2,
                         'shape': [8, 32, 32, 3], 'ms_per_restart_step': 1.5}],
  }, page, 'a machine')
  text = page.read_text()
  assert '| quickstart | 5.74 | 2.41 |' in text
  assert '| ig | 1 | 9 |  |' in text
  assert text.endswith('## Notes\nkept\n') and 'stale' not in text
  assert (tmp_path / 'performance.png').stat().st_size > 1000


@pytest.mark.slow
def test_a_quick_run_prints_rows():
  """In a process of its own, as `make bench` starts it."""
  root = ROOT
  done = subprocess.run(
      [sys.executable, 'benchmarks/limits.py', '--quick'], cwd=root,
      env=os.environ | {'PYTHONPATH': str(root)}, check=True,
      capture_output=True, text=True)
  row, = map(json.loads, done.stdout.splitlines())
  assert 0 < row['share'] < 1 and row['ms_bytes'] > 0


@pytest.mark.slow
def test_labels_that_are_told_as_certain_are_right(load, monkeypatch):
  counts = load('label_counts')
  monkeypatch.setattr(counts, '_BATCHES', 15)
  monkeypatch.setattr(counts, '_QUICK', SimpleNamespace(value=False))
  victim = counts.victims.build('c3d', counts._SHAPE, 101, preset='small')
  clips, motions = counts._clips('test')
  row = counts._count(
      victim, victim.init(jax.random.key(0)), clips, motions, 4)
  assert row['batches'] == row['exact'] == 3
  assert row['wrong'] == row['open'] == 0 and row['guess'] == 1
