"""The page of `victims.py`: two tables, from what stands under its workdir."""

import json
import statistics

from vidleak_jax import files

# two-sided 95 % quantiles of Student's t, by degrees of freedom
_STUDENT = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36,
            8: 2.31, 9: 2.26, 10: 2.23}
_NORMAL = 1.96


_NOTES = '## Notes'
_HEADER = ('row', 'victim', 'clip', 'weights', 'norm', 'attack', 'clips',
           'PSNR dB (95 %)', 'SSIM', 'unrelated', 'mean colour', 's a clip',
           'peak MB')


def write(page, folder, rows, fits, paths) -> None:
  """Writes the tables anew and keeps the page's notes.

  Args:
    page: the file.
    folder: of all runs.
    rows: of the first table, by name.
    fits: of the second.
    paths: of this machine, and what stands for each.
  """
  before = page.read_text() if page.exists() else ''
  notes = before[before.index(_NOTES):] if _NOTES in before else ''
  text = '\n'.join([*_table(folder, rows, paths), '',
                    *_fit_table(folder, fits)])
  with files.replacing(page) as partial:
    partial.write_text(f'{text}\n' + f'\n{notes}' * bool(notes))


def _table(folder, rows, paths):
  """Lines of the page, from what stands under the workdir."""
  yield from [
      '# How much each victim leaks', '',
      'Measured by `python benchmarks/victims.py`; a row is in the table only '
      'if its runs were finished. One gradient a clip, labels inferred. PSNR '
      'is the mean over clips and seeds with the 95 % interval of Student\'s '
      't; floors as in `result.json`. Seconds are those of a shared machine.',
      '', _line(_HEADER), _line(['---'] * len(_HEADER))]
  commands, missing = [], []
  for name, row in rows.items():
    runs = sorted((folder.absolute() / name).glob('*/result.json'))
    if runs:
      yield _line(_cells(name, row, runs))
      commands.append(f'- `{name}`: `{_told(runs[0].parent, paths)}`')
    else:
      missing.append(f'`{name}`')
  if missing:
    yield from ['', f'Not run: {", ".join(missing)}.']
  yield from ['', '## Commands', '',
              'Of each row\'s first run; the others differ in seed and data.',
              '', *commands]


def _fit_table(folder, fits):
  """Lines of the second table: what every size takes."""
  yield from [
      '## Every size', '',
      '`python benchmarks/victims.py --sizes`: the main job on one clip, to '
      'the end; of a published size one step. Seconds to compile and '
      'to attack, and the process\'s peak memory, on a shared CPU.', '',
      _line(('victim', 'clip', 'attack', 'steps', 'compile s', 'attack s',
             'peak MB')), _line(['---'] * 7)]
  for name in fits:
    run = folder.absolute() / name / '0'
    if not (run / 'result.json').exists():
      yield _line([' '.join(name.rsplit('_', 1)), 'not run', *[''] * 5])
      continue
    result = json.loads((run / 'result.json').read_text())
    config = json.loads((run / 'config.json').read_text())['config']
    data, attack = config['data'], config['attack']['name']
    size = data['image_size']
    yield _line([
        ' '.join(name.rsplit('_', 1)), f'{data["num_frames"]}x{size}x{size}',
        attack, result['num_steps'] if attack != 'closed_form' else '-',
        f'{result["seconds_compile"]:.0f}', f'{result["seconds_attack"]:.1f}',
        f'{result["peak_memory_bytes"] / 1e6:.0f}'])


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


def _told(folder, paths):
  """The command without this machine's paths."""
  command = json.loads((folder / 'config.json').read_text())['command']
  for path, told in paths.items():
    if path:
      command = [part.replace(str(path), told) for part in command]
  return ' '.join(command)


def _line(cells):
  return f'| {" | ".join(map(str, cells))} |'
