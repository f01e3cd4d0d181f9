"""Time and memory of a step against frames, resolution, restarts and width.

  python benchmarks/cost.py [--quick] [--peers=torch]

Each case runs in a process of its own, so that its peak of resident memory is
its own; what the process held before the attack was built is subtracted. Ours
run twice: the first time the compiler's memory is the peak, the second time the
programs come from the cache, as for all later trials of a shape.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import ours
import peers
import problem as problems
import timing
from absl import flags

from vidleak_jax.cli import launcher
from vidleak_jax.runtime import backend, parallel

ROOT = Path(__file__).resolve().parents[1]
_QUICK = flags.DEFINE_bool('quick', False, 'The smallest cases only.')
_PEERS = flags.DEFINE_list('peers', [], 'Of breaching, torch, torch_compile.')
_CHILD = flags.DEFINE_string('child', None, 'peer,preset,SHAPE:RESTARTS')

# preset, frames x height x width : restarts -> forced CPU devices, None: one a
# core, as attacks have them
_CASES = {
    'strided,8x32x32:2': (None,),
    'strided,8x32x32:8': (None, 1, 8),
    'strided,8x32x32:64': (None,),
    'strided,16x32x32:2': (None,),
    'strided,32x32x32:2': (None,),
    'strided,16x64x64:2': (None,),
    'strided,16x64x64:8': (None, 1, 8),
    'strided,16x112x112:2': (None,),
    'strided,32x224x224:1': (1,),
    'strided,64x448x448:1': (1,),
    'small,8x32x32:2': (None,),
    'wide,8x32x32:2': (None,),
}
_FORCED = '--xla_force_host_platform_device_count='
_EFFORT = timing.Effort(seconds=1.0, blocks=3, limit=10)


def main() -> None:
  if _CHILD.value:
    peer, preset, case = _CHILD.value.split(',')
    print(json.dumps(measure(peer, preset, case)))
    return
  for case in list(_CASES)[:2] if _QUICK.value else _CASES:
    for count in _CASES[case]:
      print(json.dumps(_twice(case, count)), flush=True)
      for peer in _PEERS.value if count is None else ():
        print(json.dumps(_start(f'{peer},{case}', {})), flush=True)


def _twice(case, forced) -> dict:
  """Our row, with the memory of the run that compiles beside it."""
  with tempfile.TemporaryDirectory() as cache:
    env = {'JAX_COMPILATION_CACHE_DIR': cache}
    if forced:
      env['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {_FORCED}{forced}'
    cold, warm = (_start(f'self,{case}', env) for _ in range(2))
  return {**warm, 'peak_mib_compiling': cold['peak_mib']}


def _start(child, env) -> dict:
  """The row of a process of its own."""
  done = subprocess.run(
      [sys.executable, __file__, f'--child={child}'], cwd=ROOT,
      env={**os.environ, **env}, check=True, capture_output=True, text=True)
  return json.loads(done.stdout.splitlines()[-1])


def measure(peer: str, preset: str, case: str) -> dict:
  """Milliseconds of a restart-step, and bytes of a restart at the peak."""
  shape, restarts = problems.parse(case)
  devices = parallel.pick_devices()
  choices = backend.choose(devices[0].platform)
  backend.apply(choices)
  problem = problems.build(shape, ('c3d', preset), choices.lowering)
  if peer != 'self':
    peers.load(peer)  # its libraries are no part of the cost
  before = _peak()
  if peer == 'self':
    runner = ours.build(problem, restarts, choices, devices)
  else:
    runner = peers.build(peer, problem, restarts)
  # Steps in one call, as attacks take them: a call's first one touches new
  # memory, which costs a third of a step.
  times = timing.interleave({peer: runner.run}, _EFFORT)[peer]
  seconds = statistics.median(times) / restarts
  return {'name': 'cost', 'peer': peer, 'preset': preset,
          'num_devices': len(devices) if peer == 'self' else None,
          'shape': list(shape), 'restarts': restarts,
          'parameters': sum(x.size for x in jax.tree.leaves(problem.params)),
          'ms_per_restart_step': 1e3 * seconds,
          'peak_mib': (_peak() - before) / 2 ** 20,
          'peak_mib_per_restart': (_peak() - before) / 2 ** 20 / restarts}


def _peak():
  stats = jax.local_devices()[0].memory_stats() or {}
  return stats.get('peak_bytes_in_use') or 1024 * resource.getrusage(
      resource.RUSAGE_SELF).ru_maxrss


if __name__ == '__main__':
  launcher.run(main)
