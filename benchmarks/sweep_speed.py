"""A sweep of 256 trials of one shape beside as many separate runs.

  python benchmarks/sweep_speed.py --workdir=runs/speed

Both have two workers, a core each, and compile into caches of their own. Of the
separate runs a sample is timed and multiplied. Prints one JSON line.
"""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from absl import app, flags

ROOT = Path(__file__).parents[1]
CONFIG = '--config=configs/sweeps/same_shape.py'
TRIALS, WORKERS = 256, 2

_WORKDIR = flags.DEFINE_string('workdir', None, 'Must be new.', required=True)
_SAMPLE = flags.DEFINE_integer('sample', 32, 'Separate runs to time.', 1, 256)


def main(_) -> None:
  folder = Path(_WORKDIR.value).absolute()
  began = time.perf_counter()
  _run(folder, 'sweep', f'--workers={WORKERS}')
  seconds_sweep = time.perf_counter() - began
  began = time.perf_counter()
  with ThreadPoolExecutor(WORKERS) as pool:
    list(pool.map(lambda seed: _run(
        folder, 'attack', f'--config.seed={seed}', core=seed % WORKERS),
        range(_SAMPLE.value)))
  each = (time.perf_counter() - began) / _SAMPLE.value
  rows = map(json.loads, (
      folder / 'sweep' / 'results.jsonl').read_text().splitlines())
  print(json.dumps({
      'trials': sum(row['status'] == 'done' for row in rows),
      'seconds_sweep': round(seconds_sweep, 1),
      'seconds_separate': round(each * TRIALS, 1), 'sample': _SAMPLE.value,
      'times_faster': round(each * TRIALS / seconds_sweep, 2),
      'attack_programs_compiled': _programs(folder / 'cache_sweep')}))


def _run(folder, launcher, *flags_, core=None):
  home = folder / launcher / (flags_[0].partition('=')[2] if core is not None
                              else '')
  pinned = [] if core is None else ['taskset', '-c', str(core)]
  subprocess.run(
      [*pinned, sys.executable, f'launch/{launcher}.py', CONFIG,
       f'--workdir={home}', *flags_], cwd=ROOT, check=True,
      stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
      env=os.environ | {'PYTHONPATH': str(ROOT),
                        'XDG_CACHE_HOME': str(folder / f'cache_{launcher}')})


def _programs(cache):
  """Different programs of an attack's steps that were compiled; pmap's are
  called `_fun`."""
  return len(list(cache.glob('vidleak_jax/jax/jit__fun-*-cache')))


if __name__ == '__main__':
  app.run(main)
