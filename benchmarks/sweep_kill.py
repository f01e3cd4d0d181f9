"""Kills workers, launchers and, on Ray, a node at random while a sweep runs;
then compares every trial with an undisturbed sweep's, bit for bit.

  python benchmarks/sweep_kill.py --workdir=runs/kill
  python benchmarks/sweep_kill.py --workdir=runs/kill_ray --engine=ray

Ray's cluster has two nodes on this machine. Prints one JSON line.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from absl import app, flags

ROOT = Path(__file__).parents[1]
TIMINGS = ('seconds_compile', 'seconds_attack', 'restart_steps_per_second',
           'peak_memory_bytes')

_WORKDIR = flags.DEFINE_string('workdir', None, 'Must be new.', required=True)
_CONFIG = flags.DEFINE_string('sweep', 'configs/sweeps/tiny.py', 'What to run.')
_ENGINE = flags.DEFINE_enum('engine', 'local', ['local', 'ray'], 'Where.')
_KILLS = flags.DEFINE_integer('kills', 50, 'Of workers.')
_LAUNCHER_KILLS = flags.DEFINE_integer('launcher_kills', 5, 'Of launchers.')
_PAUSE = flags.DEFINE_float('pause', 3.0, 'Most seconds between two kills.')
_SEED = flags.DEFINE_integer('seed', 0, 'Of the moments and the victims.')


def main(_) -> None:
  folder = Path(_WORKDIR.value).absolute()
  calm, wild = folder / 'calm', folder / 'wild'
  with _cluster() as (args, lose_node):
    began = time.perf_counter()
    if _start(calm, args).wait():
      sys.exit('The undisturbed sweep failed.')
    seconds_calm = time.perf_counter() - began
    counts, seconds_wild = _disturb(wild, args, lose_node)
  print(json.dumps({
      'engine': _ENGINE.value, **counts, 'seconds_calm': round(seconds_calm),
      'seconds_wild': round(seconds_wild), **compare(calm, wild)}))


def _disturb(folder, args, lose_node):
  """Kills until all that was asked for is killed, then lets it end."""
  rng = random.Random(_SEED.value)
  victims = ['worker'] * _KILLS.value + ['launcher'] * _LAUNCHER_KILLS.value
  rng.shuffle(victims)
  counts = {'worker': 0, 'launcher': 0, 'node': 0}
  began, launcher = time.perf_counter(), _start(folder, args)
  while victims and launcher.poll() is None:
    time.sleep(rng.uniform(0, _PAUSE.value))
    if len(victims) == _KILLS.value // 2 and not counts['node']:
      counts['node'] += lose_node()
    if victims[-1] == 'launcher':
      launcher.kill()
      launcher.wait()
      launcher = _start(folder, args)
    elif workers := _workers(folder):
      with contextlib.suppress(ProcessLookupError):
        os.kill(rng.choice(workers), signal.SIGKILL)
    else:
      continue
    counts[victims.pop()] += 1
  if launcher.wait():
    sys.exit(f'The disturbed sweep failed after {counts}.')
  if victims:
    sys.exit(f'It ended before all kills: {counts}. Lower --pause.')
  return {f'{name}_kills': n for name, n in counts.items()}, (
      time.perf_counter() - began)


def _start(folder, args):
  return subprocess.Popen(
      [sys.executable, 'launch/sweep.py', f'--config={_CONFIG.value}',
       f'--workdir={folder}', '--workers=2', *args], cwd=ROOT,
      env=os.environ | {'PYTHONPATH': str(ROOT)})


def _workers(folder):
  """Process ids of the workers of a sweep."""
  found = []
  for path in Path('/proc').glob('[0-9]*/cmdline'):
    with contextlib.suppress(OSError):
      command = path.read_bytes().decode(errors='replace')
      ours = f'vidleak_jax.experiments.sweep.worker\0{folder}' in command
      if ours or command.startswith('ray::group'):
        found.append(int(path.parent.name))
  return found


@contextlib.contextmanager
def _cluster():
  """(flags of the launcher, what loses a node)."""
  if _ENGINE.value == 'local':
    yield [], lambda: 0
    return
  from ray.cluster_utils import Cluster
  cluster = Cluster(initialize_head=True, head_node_args={'num_cpus': 1})
  second = cluster.add_node(num_cpus=1)

  def lose_node():
    cluster.remove_node(second, allow_graceful=False)
    cluster.add_node(num_cpus=1)
    return 1
  yield ['--engine=ray', f'--ray_address={cluster.address}'], lose_node
  cluster.shutdown()


def compare(calm: Path, wild: Path) -> dict[str, int]:
  """Counts of rows, of those that are lost, double, torn, failed or differ,
  and of recoveries that differ in a bit."""
  lines = (wild / 'results.jsonl').read_text().splitlines(keepends=True)
  rows = [json.loads(line) for line in lines]
  expected = {row['trial']: row for row in map(
      json.loads, (calm / 'results.jsonl').read_text().splitlines())}
  names = [row['trial'] for row in rows]
  return {
      'rows': len(rows),
      'lost': len(expected.keys() - set(names)),
      'double': len(names) - len(set(names)),
      'torn': sum(not line.endswith('\n') for line in lines),
      'failed': sum(row['status'] != 'done' for row in rows),
      'rows_that_differ': sum(
          _timeless(row) != _timeless(expected[row['trial']]) for row in rows),
      'recoveries_that_differ': sum(
          not _same(calm, wild, name) for name in names),
  }


def _timeless(row):
  return {k: v for k, v in row.items() if k not in TIMINGS}


def _same(calm, wild, name):
  arrays = [np.load(folder / 'trials' / name / 'recovered.npz')
            for folder in (calm, wild)]
  return all(np.array_equal(arrays[0][key], arrays[1][key])
             for key in arrays[0].files)


if __name__ == '__main__':
  app.run(main)
