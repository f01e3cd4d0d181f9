"""Seconds from the command to the attack's first step, first and second time.

  python benchmarks/cold_start.py [--quick]

The first time nothing is compiled; the second finds the first one's programs
in the compilation cache. Both import everything anew.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from absl import flags

from vidleak_jax.cli import launcher

ROOT = Path(__file__).resolve().parents[1]
_QUICK = flags.DEFINE_bool('quick', False, 'The small case only.')
_CASES = {'quickstart': ['--config=configs/quickstart.py'],
          'c3d_16x64x64': ['--config=configs/default.py',
                           '--config.data.num_frames=16',
                           '--config.data.image_size=64']}


def main() -> None:
  names = list(_CASES)[:1] if _QUICK.value else _CASES
  for name in names:
    with tempfile.TemporaryDirectory() as cache:
      seconds = [first_step(_CASES[name], cache) for _ in range(2)]
    print(json.dumps({
        'name': 'cold_start', 'case': name, 'seconds_first': seconds[0],
        'seconds_second': seconds[1]}), flush=True)


def first_step(options: list[str], cache: str) -> float:
  """Seconds until the first row of metrics.jsonl, with a chunk of one step."""
  with tempfile.TemporaryDirectory() as folder:
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, 'launch/attack.py', *options, f'--workdir={folder}',
         '--config.attack.name=feature_matching',
         '--config.attack.chunk_steps=1', '--config.superres.name=none'],
        cwd=ROOT, env=os.environ | {'XDG_CACHE_HOME': cache},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    rows = Path(folder) / 'metrics.jsonl'
    while not rows.exists() or not rows.read_text():
      if process.poll() is not None:
        raise RuntimeError(f'The run ended early: status {process.returncode}.')
      time.sleep(0.005)
    seconds = time.perf_counter() - began
    process.kill()
    process.wait()
  return seconds


if __name__ == '__main__':
  launcher.run(main)
