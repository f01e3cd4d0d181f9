"""The script for accelerators: an order, rows that fail, a dying process."""

import json
import os
import subprocess
import sys
import time
from itertools import pairwise

import jax
import numpy as np
import pytest

from tests.helpers import ROOT
from vidleak_jax.types import UserError


@pytest.fixture(scope='module')
def probes():
  sys.path.insert(0, str(ROOT / 'benchmarks'))
  import probes
  from probes import plan, recoveries
  assert plan and recoveries
  yield probes
  sys.path.remove(str(ROOT / 'benchmarks'))


def later(seconds):
  return time.monotonic() + seconds


def test_the_plan_begins_with_the_machine_and_has_every_kind(probes):
  for size in (probes.TINY, probes.FULL):
    rows = probes.plan.rows(size)
    assert [row.label['name'] for row in rows[:2]] == ['device', 'product']
    assert {row.label['name'] for row in rows} == {
        'device', 'product', 'copy', 'restart_steps', 'latency', 'program',
        'psnr', 'peeling'}
    assert len({json.dumps([r.group, r.label]) for r in rows}) == len(rows)
  peers = {row.label.get('peer') for row in rows}
  assert {'self', 'torch_vmap', 'torch', 'breaching'} <= peers


def test_an_unknown_row_lists_the_known(probes):
  with pytest.raises(UserError, match='copy, device'):
    probes.plan.rows(probes.TINY, ['speed'])


def test_a_row_that_fails_says_why_and_the_next_one_comes(probes):
  def fail():
    raise ValueError('out of ' + 'memory ' * 1000)
  rows = [probes.Probe('steps', {'name': 'a'}, 0, fail),
          probes.Probe('steps', {'name': 'b'}, 100, dict),
          probes.Probe('steps', {'name': 'c'}, 0, lambda: {'found': 1})]
  (a, begun, _), (_, _, failed), (b, _, skipped), _, (c, _, found) = (
      probes.run(rows, later(5)))
  assert begun is rows[0] and (a, b, c) == (0, 1, 2)
  assert failed['error'].startswith('ValueError: out of memory')
  assert len(json.dumps(failed)) < 4000 and 'fail:' in failed['where']
  assert 'may take 100' in skipped['skipped']
  assert found['found'] == 1 and found['seconds'] >= 0


@pytest.mark.slow
def test_a_row_of_the_steps(probes):
  from probes import steps
  found = steps.own(('c3d', 'tiny'), '2x8x8:2', steps.backend.choose('cpu'),
                    0.005, 1)
  assert found['gradient_gap_to_float32'] == 0
  assert found['steps_a_second'] == pytest.approx(
      found['restart_steps_a_second'] / 2)
  assert 0 < found['share_of_product'] < 1 and found['seconds_compile'] > 0


@pytest.mark.slow
def test_a_program_is_compiled_once_and_then_loaded(probes):
  from probes import programs
  before = jax.config.jax_compilation_cache_dir
  row = programs.measure(('c3d', 'tiny'), '2x8x8:2', 'matmul')
  assert row['seconds_compile_cached'] < row['seconds_compile_cold'] / 2
  assert row['hlo_lines'] > 100 and row['bytes_temporary'] > 0
  assert jax.config.jax_compilation_cache_dir == before


def test_the_made_up_clip_moves_and_has_256_levels(probes):
  clip = probes.recoveries.moving_shapes((4, 16, 24, 3))
  assert clip.shape == (4, 16, 24, 3) and 0 <= clip.min() < clip.max() <= 1
  np.testing.assert_allclose(255 * clip, np.round(255 * clip), atol=1e-4)
  assert all(np.abs(a - b).mean() > 0.01 for a, b in pairwise(clip))
  assert clip.std() > 0.1


@pytest.mark.process
def test_it_runs_with_little_installed_and_after_a_crash(tmp_path):
  """A process of its own, in which the first product ends everything."""
  (tmp_path / 'sitecustomize.py').write_text('''
import os, sys
for name in ('jaxtyping', 'safetensors', 'dm_pix', 'PIL', 'matplotlib', 'av',
             'tensorflow_datasets', 'skimage', 'tqdm', 'tensorboardX', 'chex'):
  sys.modules[name] = None
if '--first=0' in sys.argv:
  import atexit, threading
  sys.path[:0] = os.environ['PYTHONPATH'].split(os.pathsep)
  import probes.machine
  probes.machine.product = lambda *_: os._exit(3)
''')
  out = tmp_path / 'rows'
  done = subprocess.run(
      [sys.executable, 'benchmarks/accelerator.py', '--tiny', '--minutes=2',
       '--only=device,product,copy', f'--out={out}'], cwd=ROOT, check=True,
      env=os.environ | {'PYTHONPATH': str(tmp_path)}, capture_output=True,
      text=True)
  rows = [json.loads(line) for line in done.stdout.splitlines()]
  assert (out / 'machine.jsonl').read_text() == done.stdout
  assert [row['name'] for row in rows] == [
      'device', *['product'] * 4, 'copy', 'product']
  assert rows[1]['error'] == 'the process ended with status 3'
  assert all(row['tflops'] > 0 for row in (*rows[2:5], rows[6]))
  assert rows[5]['gbytes_a_second'] > 0
