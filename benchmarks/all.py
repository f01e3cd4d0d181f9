"""Runs every benchmark and writes docs/lab/performance.md, tables and plots.

  make bench
  python benchmarks/all.py [--quick] [--peers=breaching,torch,torch_compile]

The whole takes an hour on two cores with all peers, `--quick` some ten minutes.
What a benchmark printed stands in --folder; --keep shows it again without
running. Interrupted, the same command goes on with the run that was cut; once
the page is written, it measures all anew.
"""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import performance
from absl import flags

from vidleak_jax import files
from vidleak_jax.cli import launcher
from vidleak_jax.types import UserError

ROOT = Path(__file__).resolve().parents[1]
_QUICK = flags.DEFINE_bool('quick', False, 'The small cases of each.')
_KEEP = flags.DEFINE_bool('keep', False, 'Only write the page again.')
_PEERS = flags.DEFINE_list('peers', [], 'Of breaching, torch, torch_compile.')
_FOLDER = flags.DEFINE_string('folder', 'runs/bench', 'Of the rows.')
_OUTPUT = flags.DEFINE_string('output', 'docs/lab/performance.md', 'The page.')

_ALL = 'breaching', 'torch', 'torch_compile'
_EAGER = 'breaching', 'torch'  # where compiling takes torch minutes a shape
# file -> options of each of its runs, and which of --peers it takes
RUNS = {
    'restart_steps': [
        ([], _ALL),
        (['--victim=r2plus1d18',
          '--cases=8x32x32:2,16x64x64:2,16x112x112:2'], _EAGER),
        (['--victim=vivit', '--cases=8x32x32:8'], _ALL),
        (['--victim=vivit', '--cases=8x32x32:2,16x64x64:2,16x112x112:2'],
         _EAGER),
        (['--victim=lenet'], _ALL),
        (['--preset=wide', '--cases=16x64x64:2'], ())],
    'limits': [([], ())],
    'time_to_quality': [([], ())],
    'halving': [([], ())],
    # breaching's imports leave more memory than its steps take: no figure
    'cost': [([], ('torch', 'torch_compile'))],
    'rrdbnet': [([], ('torch',))],
    'stages': [([], ())],
    'cold_start': [([], ())],
}


def main() -> None:
  if unknown := set(_PEERS.value) - set(_ALL):
    raise UserError(f'Unknown peers {", ".join(sorted(unknown))}. Choose of: '
                    f'{", ".join(_ALL)}.')
  folder = Path(_FOLDER.value)
  folder.mkdir(parents=True, exist_ok=True)
  if not _KEEP.value:
    for name, runs in RUNS.items():
      _run(name, runs[:1] if _QUICK.value else runs, folder)
  files_of = {name: folder / f'{name}.jsonl' for name in RUNS}
  rows = {name: [json.loads(line) for line in file.read_text().splitlines()]
          for name, file in files_of.items() if file.exists()}
  if not rows:
    raise UserError(f'No rows in {folder}. Run it without --keep first.')
  page = performance.write(rows, ROOT / _OUTPUT.value, _machine())
  if not _KEEP.value:
    shutil.rmtree(folder / 'unfinished')
  print(f'page: {page}')


def _run(name, runs, folder):
  """All rows of one benchmark; its file is whole or absent."""
  rows = ''.join(_rows(name, options, [peer for peer in _PEERS.value
                                       if peer in known], folder / 'unfinished')
                 for options, known in runs)
  with files.replacing(folder / f'{name}.jsonl') as partial:
    partial.write_text(rows)


def _rows(name, options, peers, folder) -> str:
  """JSON lines of one command, from `folder` where it had ended before."""
  arguments = [f'benchmarks/{name}.py', *options]
  if peers:
    arguments.append(f'--peers={",".join(peers)}')
  if _QUICK.value:
    arguments.append('--quick')
  command = ' '.join(['python', *arguments])
  digest = hashlib.sha256(command.encode()).hexdigest()[:8]
  kept = folder / f'{name}-{digest}.jsonl'
  if kept.exists():
    print(f'{command}\n  measured before the interruption: {kept}', flush=True)
    return kept.read_text()
  print(command, flush=True)
  done = subprocess.run(
      [sys.executable, *arguments], cwd=ROOT, check=False, text=True,
      env=os.environ | {'PYTHONPATH': str(ROOT)}, stdout=subprocess.PIPE)
  if done.returncode:
    raise UserError(f'{arguments[0]} ended with status {done.returncode}; what '
                    'it said stands above.')
  rows = ''.join(f'{line}\n' for line in done.stdout.splitlines()
                 if line[:1] == '{')
  folder.mkdir(parents=True, exist_ok=True)
  with files.replacing(kept) as partial:
    partial.write_text(rows)
  return rows


def _machine() -> str:
  """What the figures were taken on."""
  text = Path('/proc/cpuinfo').read_text() if sys.platform == 'linux' else ''
  models = [line.split(':', 1)[1].strip() for line in text.splitlines()
            if line.startswith('model name')]
  model = models[0] if models else platform.machine()
  return f'{os.cpu_count()} cores, {model}, Python {platform.python_version()}'


if __name__ == '__main__':
  launcher.run(main)
