"""How much each victim leaks: fills docs/lab/victims.md.

  python benchmarks/victims.py --workdir=runs/victims --dir=FOLDER_OF_VIDEOS
  python benchmarks/victims.py --workdir=runs/victims --only=vivit

Each row is one command, run once a seed in a process of its own; it can be run
alone. What stands under --workdir is not run again, and what is not there is
not in the table. Interrupted, the table has the rows that were finished. The
page's notes, from their heading on, are kept as they are.

A second table shows that every network runs at every size, and what that takes:

  python benchmarks/victims.py --workdir=runs/victims --sizes
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import victims_page
from absl import flags

from vidleak_jax.cli import launcher
from vidleak_jax.types import pick

ROOT = Path(__file__).resolve().parents[1]
_WORKDIR = flags.DEFINE_string('workdir', None, 'Of all runs.', required=True)
_DIR = flags.DEFINE_string(
    'dir', None, 'Class folders of videos; None: photo_motion alone.')
_TRAINED = flags.DEFINE_string(
    'trained', None, 'The workdir of configs/train_c3d.py, for its rows.')
_ONLY = flags.DEFINE_list('only', None, 'Names of rows to run; None: all.')
_FIT = flags.DEFINE_bool(
    'sizes', False, 'Runs the rows of the second table instead.')
_SEEDS = flags.DEFINE_integer('seeds', 1, 'Runs of each row.')
_CLIPS = flags.DEFINE_integer('clips', 3, 'Clips of each set in a run.')
_MINUTES = flags.DEFINE_float('minutes', 60, 'No new run begins after these.')
_OUTPUT = flags.DEFINE_string('output', 'docs/lab/victims.md', 'The table.')

class Row(NamedTuple):
  """One line of the table."""
  config: str               # of configs/, with its size
  overrides: tuple = ()     # FIELD=VALUE
  snapshot: str = ''        # file under --trained; '' for untrained


_SMALL_TRAINED = ('data.image_size=16', 'data.frame_stride=4',
                  'victim.num_classes=10')
_BUDGET = 'attack.num_steps=300',  # where a victim resists, as far as tried
ROWS = {
    'c3d': Row('clip_c3d.py:small'),
    'c3d_64': Row('clip_c3d.py:small', (
        'data.num_frames=16', 'data.image_size=64', 'attack.num_steps=600')),
    'c3d_initial': Row('clip_c3d.py:small', _SMALL_TRAINED,
                       'snapshots/step_0.safetensors'),
    'c3d_early': Row('clip_c3d.py:small', _SMALL_TRAINED,
                     'snapshots/step_100.safetensors'),
    'c3d_late': Row('clip_c3d.py:small', _SMALL_TRAINED, 'params.safetensors'),
    'vivit': Row('clip_vivit.py:small'),
    'cnn_gru': Row('clip_cnn_gru.py:small'),
    'cnn_gru_64': Row('clip_cnn_gru.py:small', (
        'data.num_frames=16', 'data.image_size=64', 'attack.num_steps=300')),
    'r3d18_group': Row('clip_r3d18.py:small', ('victim.norm=group', *_BUDGET)),
    'r3d18_fixed': Row('clip_r3d18.py:small', ('victim.norm=fixed', *_BUDGET)),
    'r3d18_batch': Row('clip_r3d18.py:small', ('victim.norm=batch', *_BUDGET)),
    'r2plus1d18_group': Row('clip_r2plus1d18.py:small', (
        'victim.norm=group', *_BUDGET)),
    'timesformer': Row('clip_timesformer.py:small', _BUDGET),
    'videomae': Row('clip_videomae.py:small', _BUDGET),
}
_NETWORKS = ('c3d', 'r3d18', 'r2plus1d18', 'cnn_gru', 'vivit', 'timesformer',
             'videomae')
_PRESETS = 'tiny', 'small', 'full'
_FEW = ('data.name=photo_motion', 'data.split=test', 'attack.num_steps=4')
_ONE = (*_FEW[:2], 'attack.num_steps=1')  # enough to tell what a step takes
FITS = {f'{name}_{preset}': Row(f'clip_{name}.py:{preset}',
                                _ONE if preset == 'full' else _FEW)
        for name in _NETWORKS for preset in _PRESETS}
def main() -> None:
  folder, began = Path(_WORKDIR.value), time.monotonic()
  rows = FITS if _FIT.value else ROWS
  for name in _ONLY.value or rows:
    row = pick(rows, name, 'row')
    if row.snapshot and not _TRAINED.value:
      print(f'{name}: skipped, it needs --trained.')
      continue
    for i, command in enumerate(_commands(name, row, folder)):
      if time.monotonic() - began > 60 * _MINUTES.value:
        break
      _run(command, _run_folder(folder, name, i))
  paths = {_WORKDIR.value: 'runs/victims', folder.absolute(): 'runs/victims',
           _DIR.value and Path(_DIR.value).absolute(): 'VIDEOS',
           _TRAINED.value and Path(_TRAINED.value).absolute(): 'runs/c3d'}
  victims_page.write(ROOT / _OUTPUT.value, folder, ROWS, FITS, paths)


def _run(command, folder):
  """One run in a process of its own; that it failed is said, and no row."""
  print(' '.join(command), flush=True)
  env = os.environ | {'PYTHONPATH': str(ROOT)}
  done = subprocess.run([sys.executable, *command[1:]], cwd=ROOT, env=env,
                        check=False, stdout=subprocess.DEVNULL)
  if done.returncode:
    print(f'  failed with status {done.returncode}', flush=True)
    return
  result = json.loads((folder / 'result.json').read_text())
  print(f'  {result["psnr"]:.1f} dB', flush=True)


def _run_folder(folder, name, i):
  return folder.absolute() / name / str(i)


def _commands(name, row, folder):
  """The seeds on photo_motion, then on the user's videos; or one run."""
  if name in FITS:
    yield _command(name, row, folder, 0, row.overrides)
    return
  sets = [('data.name=photo_motion', 'data.split=test')]
  if _DIR.value:
    sets.append((f'data.dir={Path(_DIR.value).absolute()}',))
  i = 0
  for own in sets:
    for seed in range(_SEEDS.value):
      fields = [*row.overrides, *own, f'data.num_clips={_CLIPS.value}',
                f'seed={seed}']
      if row.snapshot:
        path = Path(_TRAINED.value).absolute() / row.snapshot
        fields.append(f'victim.checkpoint={path}')
      yield _command(name, row, folder, i, fields)
      i += 1


def _command(name, row, folder, i, fields):
  return ['python', 'launch/attack.py', f'--config=configs/{row.config}',
          f'--workdir={_run_folder(folder, name, i)}',
          *(f'--config.{field}' for field in fields)]


if __name__ == '__main__':
  launcher.run(main)
