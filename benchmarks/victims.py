"""How much each victim leaks: fills docs/victims.md.

  python benchmarks/victims.py --workdir=runs/victims --dir=FOLDER_OF_VIDEOS
  python benchmarks/victims.py --workdir=runs/victims --only=vivit

Each row is one command, run once a seed in a process of its own; it can be run
alone. What stands under --workdir is not run again, and what is not there is
not in the table. Interrupted, the table has the rows that were finished.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from absl import flags

from vidleak_jax import files, launcher
from vidleak_jax.types import pick

ROOT = Path(__file__).resolve().parents[1]
_WORKDIR = flags.DEFINE_string('workdir', None, 'Of all runs.', required=True)
_DIR = flags.DEFINE_string(
    'dir', None, 'Class folders of videos; None: photo_motion alone.')
_TRAINED = flags.DEFINE_string(
    'trained', None, 'The workdir of configs/train_c3d.py, for its rows.')
_ONLY = flags.DEFINE_list('only', None, 'Names of rows to run; None: all.')
_SEEDS = flags.DEFINE_integer('seeds', 1, 'Runs of each row.')
_CLIPS = flags.DEFINE_integer('clips', 3, 'Clips of each set in a run.')
_MINUTES = flags.DEFINE_float('minutes', 60, 'No new run begins after these.')
_OUTPUT = flags.DEFINE_string('output', 'docs/victims.md', 'The table.')

# two-sided 95 % quantiles of Student's t, by degrees of freedom
_STUDENT = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36,
            8: 2.31, 9: 2.26, 10: 2.23}
_NORMAL = 1.96


class Row(NamedTuple):
  """One line of the table."""
  config: str               # of configs/, with its size
  overrides: tuple = ()     # FIELD=VALUE
  snapshot: str = ''        # file under --trained; '' for untrained


_SMALL_TRAINED = ('data.image_size=16', 'data.frame_stride=4',
                  'victim.num_classes=10')
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
        'data.num_frames=16', 'data.image_size=64')),
    'r3d18_group': Row('clip_r3d18.py:small', ('victim.norm=group',)),
    'r3d18_fixed': Row('clip_r3d18.py:small', ('victim.norm=fixed',)),
    'r3d18_batch': Row('clip_r3d18.py:small', ('victim.norm=batch',)),
    'r2plus1d18_group': Row('clip_r2plus1d18.py:small', ('victim.norm=group',)),
    'timesformer': Row('clip_timesformer.py:small'),
    'videomae': Row('clip_videomae.py:small'),
}
_HEADER = ('row', 'victim', 'clip', 'weights', 'norm', 'attack', 'clips',
           'PSNR dB (95 %)', 'SSIM', 'unrelated', 'mean colour', 's a clip',
           'peak MB')


def main() -> None:
  folder, began = Path(_WORKDIR.value), time.monotonic()
  for name in _ONLY.value or ROWS:
    row = pick(ROWS, name, 'row')
    if row.snapshot and not _TRAINED.value:
      print(f'{name}: skipped, it needs --trained.')
      continue
    for i, command in enumerate(_commands(name, row, folder)):
      if time.monotonic() - began > 60 * _MINUTES.value:
        break
      print(' '.join(command), flush=True)
      env = os.environ | {'PYTHONPATH': str(ROOT)}
      subprocess.run([sys.executable, *command[1:]], cwd=ROOT, env=env,
                     check=True, stdout=subprocess.DEVNULL)
      result = json.loads((_run_folder(folder, name, i) /
                           'result.json').read_text())
      print(f'  {result["psnr"]:.1f} dB', flush=True)
    table = '\n'.join(_table(folder))
    with files.replacing(ROOT / _OUTPUT.value) as partial:
      partial.write_text(table + '\n')


def _run_folder(folder, name, i):
  return folder.absolute() / name / str(i)


def _commands(name, row, folder):
  """The seeds on photo_motion, then on the user's videos."""
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
      yield ['python', 'launch/attack.py', f'--config=configs/{row.config}',
             f'--workdir={_run_folder(folder, name, i)}',
             *(f'--config.{field}' for field in fields)]
      i += 1


def _table(folder):
  """Lines of the page, from what stands under the workdir."""
  yield from [
      '# How much each victim leaks', '',
      'Measured by `python benchmarks/victims.py`; a row is in the table only '
      'if its runs were finished. One gradient a clip, labels inferred. PSNR '
      'is the mean over clips and seeds with the 95 % interval of Student\'s '
      't; floors as in `result.json`. Seconds are those of a shared machine.',
      '', _line(_HEADER), _line(['---'] * len(_HEADER))]
  commands, missing = [], []
  for name, row in ROWS.items():
    runs = sorted((folder.absolute() / name).glob('*/result.json'))
    if runs:
      yield _line(_cells(name, row, runs))
      commands.append(f'- `{name}`: `{_told(runs[0].parent)}`')
    else:
      missing.append(f'`{name}`')
  if missing:
    yield from ['', f'Not run: {", ".join(missing)}.']
  yield from ['', '## Commands', '',
              'Of each row\'s first run; the others differ in seed and data.',
              '', *commands]


def _cells(name, row, runs):
  results = [json.loads(run.read_text()) for run in runs]
  config = json.loads((runs[0].parent / 'config.json').read_text())['config']
  clips = [statistics.fmean(clip) for result in results
           for clip in result['psnr_per_frame']]
  victim, data = config['victim'], config['data']
  size = data['image_size']
  return [
      name, f'{victim["name"]} {victim["preset"]}',
      f'{data["num_frames"]}x{size}x{size}', row.snapshot or 'initial',
      victim['norm'] or 'default', config['attack']['name'], len(clips),
      _interval(clips), *(f'{_mean(results, key):.{digits}f}' for key, digits in
                          (('ssim', 3), ('psnr_unrelated', 1),
                           ('psnr_mean_frame', 1))),
      f'{sum(r["seconds_attack"] for r in results) / len(clips):.1f}',
      f'{max(r["peak_memory_bytes"] for r in results) / 1e6:.0f}']


def _mean(results, key):
  return statistics.fmean(result[key] for result in results)


def _interval(values):
  mean, count = statistics.fmean(values), len(values)
  if count < 2:
    return f'{mean:.1f} (one clip)'
  wide = _STUDENT.get(count - 1, _NORMAL) * statistics.stdev(values)
  return f'{mean:.1f} ± {wide / count ** 0.5:.1f}'


def _told(folder):
  """The command without this machine's paths."""
  command = json.loads((folder / 'config.json').read_text())['command']
  flags_told = [part.replace(_WORKDIR.value, 'runs/victims')
                for part in command]
  for value, told in ((folder.parents[1], 'runs/victims'),
                      (_DIR.value and Path(_DIR.value).absolute(), 'VIDEOS'),
                      (_TRAINED.value and Path(_TRAINED.value).absolute(),
                       'runs/c3d')):
    if value:
      flags_told = [part.replace(str(value), told) for part in flags_told]
  return ' '.join(flags_told)


def _line(cells):
  return f'| {" | ".join(map(str, cells))} |'


if __name__ == '__main__':
  launcher.run(main)
