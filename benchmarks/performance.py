"""docs/lab/performance.md from the benchmarks' rows: tables, plots, notes."""

import os
from pathlib import Path

from vidleak_jax import files

_COLUMNS = {
    'restart_steps': ('victim', 'shape', 'restarts', 'peer',
                      'ms_per_restart_step', 'ratio', 'ceiling_share',
                      'seconds_compile'),
    'limits': ('victim', 'shape', 'ms_step', 'ms_products', 'ms_bytes',
               'share'),
    'time_to_quality': ('attack', 'restarts', 'steps', 'seconds_to_20_db',
                        'seconds_to_25_db', 'seconds_to_30_db', 'psnr_last',
                        'seconds_last'),
    'halving': ('attack', 'how', 'halve_at', 'steps', 'match_loss_mean',
                'psnr_mean'),
    'cost': ('peer', 'preset', 'shape', 'restarts', 'num_devices',
             'parameters', 'ms_per_restart_step', 'peak_mib',
             'peak_mib_per_restart', 'peak_mib_compiling'),
    'rrdbnet': ('peer', 'blocks', 'tile', 'seconds_a_tile', 'ratio',
                'largest_difference'),
    'stages': ('stage', 'frames', 'seconds_first', 'seconds_a_frame'),
    'cold_start': ('case', 'seconds_first', 'seconds_second'),
}
_WORDS = {
    'restart_steps': (
        'Restart-steps', 'One step of one restart. `ratio`: how many times '
        'longer the peer takes for the same work, gradients equal to 1e-4 and '
        'timed in turns. `ceiling_share`: the products of seven forward passes '
        'over the rate of a large product in the same run.'),
    'limits': (
        'Distance from the limit', 'On one device, what the products take at '
        'the rate of large ones, and what the bytes that XLA counts would take '
        'from memory: longer than the step itself, they came from caches. '
        '`share`: the products of the step.'),
    'time_to_quality': (
        'Time to quality', 'Seconds of attack, without compiling, until the '
        "attacker's own choice stands at that PSNR; `dlg` is the paper's loop. "
        'An empty field was not reached.'),
    'halving': (
        'Halving', 'Equal restart-steps three ways (`attack.halve_at`), means '
        'over five seeds.'),
    'cost': (
        'Cost against size', 'Peak of resident memory above what the process '
        'held before the attack was built; ours with programs from the cache, '
        'and `compiling` the first time.'),
    'rrdbnet': (
        'ESRGAN', 'RRDBNet x4 by tiles, with the same weights.'),
    'stages': ('Other stages', 'The first call compiles.'),
    'cold_start': (
        'Cold start', 'From the command to the first step, with an empty '
        'compilation cache and once more with what the first left there.'),
}


def write(rows: dict[str, list[dict]], path: Path, machine: str) -> Path:
  """Writes the page, and its plots beside it.

  Args:
    rows: of each benchmark, by its file's name.
    path: of the page; what stands there below `## Notes` is kept.
    machine: what the rows were measured on.
  """
  plot = path.with_suffix('.png')
  _draw(rows, plot)
  lines = ['# Performance', '', f'Measured by `make bench` on {machine}.', '',
           f'![Time to quality, and cost against restarts]({plot.name})', '']
  for name, own in rows.items():
    title, words = _WORDS[name]
    lines += [f'## {title}', '', f'`python benchmarks/{name}.py`. {words}', '',
              *_table(own, _COLUMNS[name]), '']
  with files.replacing(path) as partial:
    partial.write_text('\n'.join(lines) + _notes(path))
  return path


def _notes(path) -> str:
  text = path.read_text() if path.exists() else ''
  _, mark, notes = text.partition('## Notes\n')
  return f'\n{mark}{notes}' if mark else ''


def _table(rows, columns):
  yield '| ' + ' | '.join(name.replace('_', ' ') for name in columns) + ' |'
  yield '|' + '---|' * len(columns)
  for row in rows:
    yield '| ' + ' | '.join(_cell(row.get(name)) for name in columns) + ' |'


def _cell(value) -> str:
  if value is None:
    return ''
  if isinstance(value, list):
    return 'x'.join(map(str, value))
  return f'{value:.3g}' if isinstance(value, float) else str(value)


def _draw(rows, path):
  """Time to quality on the left, milliseconds against restarts right."""
  os.environ.setdefault('MPLBACKEND', 'Agg')
  import matplotlib.pyplot as plt
  figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
  for row in rows.get('time_to_quality', ()):
    left.plot(*zip(*row['course'], strict=True),
              label=f'{row["attack"]}, {row["restarts"]} restarts')
  left.set(xlabel='seconds', ylabel='PSNR, dB', xscale='log')
  lines = {}
  for row in rows.get('restart_steps', ()):
    key = f'{row["peer"]}, {row["victim"]}, {_cell(row["shape"][:3])}'
    lines.setdefault(key, []).append(
        (row['restarts'], row['ms_per_restart_step']))
  for key, points in lines.items():
    right.plot(*zip(*sorted(points), strict=True), marker='o', label=key)
  right.set(xlabel='restarts', ylabel='ms a restart-step', xscale='log',
            yscale='log')
  for axes in (left, right):
    axes.legend(fontsize=5)
    axes.grid(alpha=0.3)
  figure.tight_layout()
  with files.replacing(path) as partial:
    figure.savefig(partial, dpi=110)
  plt.close(figure)
