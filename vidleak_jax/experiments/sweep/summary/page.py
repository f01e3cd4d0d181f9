"""The page: settings, heat maps, curves, recoveries, trials."""

import itertools
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from vidleak_jax.evaluation.report.page import facts, style
from vidleak_jax.experiments.sweep import outcomes
from vidleak_jax.experiments.sweep.summary import charts, recoveries, statistics
from vidleak_jax.experiments.sweep.summary.statistics import Setting
from vidleak_jax.types import Row

LABELS = {
    'psnr': 'PSNR, dB', statistics.ABOVE: 'Above the floor, dB', 'ssim': 'SSIM',
    'exact': 'Exact, share',
    'psnr_enhanced': 'Enhanced, dB', 'label_accuracy': 'Labels',
    'match_loss': 'Match', 'seconds_attack': 'Seconds'}
MAX_MAPS = 6      # pairs of fields that get a heat map
_STYLE = '''
.heat { width: auto; } .heat caption { text-align: left; padding: .3rem 0;
  color: var(--quiet); font-size: .875rem; caption-side: bottom; }
.heat td { padding: .5rem .9rem; text-align: right; background:
  color-mix(in srgb, var(--s0) var(--share, 0%), var(--paper)); }
.heat th { padding: .5rem .9rem; } figure img { max-width: 100%; height: auto; }
svg circle { fill: currentColor; }
small { display: block; color: var(--quiet); white-space: nowrap; }
'''


class Raw(str):
  """HTML that is written as it is; any other text is escaped."""


def render(folder: Path, rows: Sequence[Row], setup: Row,
           over: Sequence[str]) -> str:
  """The page; arguments as in `summary.write`, `setup` from sweep.json."""
  fields, metrics = setup['fields'], statistics.metrics(rows)
  settings = statistics.settings(rows, fields, over)
  done = [row for row in rows if row['status'] == outcomes.DONE]
  title = f'{len(done)} trials of {len(settings)} settings'
  parts = [f'<h2>Settings</h2>{_settings(settings, metrics, over)}']
  if metrics:
    compared = [name for name in fields if name not in over]
    main = statistics.ABOVE if statistics.ABOVE in metrics else metrics[0]
    parts += [_maps(done, compared, metrics[0]),
              _curves(done, compared, metrics[0]),
              recoveries.render(folder, done, fields, main, LABELS[main])]
  parts += [f'<h2>Trials</h2>{_trials(rows, fields, metrics)}',
            f'<h2>How it was run</h2>{facts(setup)}']
  return (f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
          '<meta name="viewport" content="width=device-width, initial-scale=1">'
          '<meta name="color-scheme" content="light dark">'
          f'<title>{title}</title><style>{style()}{_STYLE}</style></head>'
          '<body><header><p class="over">Video leakage sweep</p>'
          f'<h1>{title}</h1>{_state(rows)}</header><main>{"".join(parts)}'
          f'</main>{_NOTES}</body></html>')


_NOTES = (
    '<footer class="quiet">Means over seeds and clips, with 95 % bootstrap '
    'intervals that resample trials and then the clips of each. A frame’s PSNR '
    'ends at 100 dB, so means over exact clips say little: see their share. '
    'The floor is the best answer that needs no gradient. The best of many '
    'settings looks better than it is: confirm it on other seeds and '
    'clips.</footer>')


def _state(rows):
  failed = sum(row['status'] == outcomes.FAILED for row in rows)
  return (f'<p>{failed} trials failed; they are listed below.</p>' if failed
          else '')


def _settings(settings: Sequence[Setting], metrics, over):
  if not settings:
    return '<p>No trial is done yet.</p>'
  names = list(settings[0].fields)
  head = [*names, 'Trials', *(LABELS[name] for name in metrics)]
  body = [[charts.words(value) for value in each.fields.values()]
          + [str(len(each.rows))]
          + [_estimate(statistics.estimate(each.rows, name))
             for name in metrics] for each in settings]
  note = f'Averaged over {", ".join(over)} and clips.'
  return f'<p class="quiet">{escape(note)}</p>{_table(head, body)}'


def _estimate(found):
  if found is None:
    return '–'
  if math.isnan(found.low) or found.low == found.high:
    return f'{found.mean:.3g}'
  return Raw(f'{found.mean:.3g} <small>{found.low:.3g} to {found.high:.3g}'
             '</small>')


def _maps(rows, fields, metric):
  """A heat map for each pair of fields, averaged over the others."""
  varied = [name for name in fields if 1 < len(_values(rows, name)) <= 30]
  pairs = list(itertools.combinations(varied, 2))[:MAX_MAPS]
  maps = ''.join(charts.heat_map(
      {(charts.words(a), charts.words(b)): found
       for a in _values(rows, down) for b in _values(rows, across)
       if (found := statistics.estimate(
           _where(rows, {down: a, across: b}), metric))}, down, across)
      for down, across in pairs)
  return maps and f'<h2>{LABELS[metric]} over two fields</h2>{maps}'


def _curves(rows, fields, metric):
  """A curve for each field of numbers; of two fields, a line for each value
  of the other."""
  numbers = [name for name in fields if len(_values(rows, name)) > 1
             and all(map(statistics.is_number, _values(rows, name)))]
  drawn = ''.join(
      f'<div>{charts.curve(_lines(rows, name, fields, metric), name)}</div>'
      for name in numbers)
  return drawn and (f'<h2>{LABELS[metric]} over one field</h2>'
                    f'<div class="charts">{drawn}</div>')


def _lines(rows, name, fields, metric):
  others = [each for each in fields
            if each != name and len(_values(rows, each)) > 1]
  split: list[tuple[Row, str]] = [({}, '')]
  if len(others) == 1 and len(_values(rows, others[0])) <= charts.MAX_LINES:
    split = [({others[0]: value}, f'{others[0]} {charts.words(value)}')
             for value in _values(rows, others[0])]
  return {label: [(x, found) for x in _values(rows, name)
                  if (found := statistics.estimate(
                      _where(rows, fixed | {name: x}), metric))]
          for fixed, label in split}


def _trials(rows, fields, metrics):
  head = ['Trial', *fields, *(LABELS[name] for name in metrics)]
  return _table(head, [
      [Raw(recoveries.link(row['trial'])),
       *(charts.words(row.get(name)) for name in fields),
       *_scores(row, metrics)] for row in rows])


def _scores(row, metrics):
  if row['status'] == outcomes.FAILED:
    return [Raw(f'<span class="leak">failed</span> {escape(row["error"])}')]
  found = [statistics.values(row, name) for name in metrics]
  return ['–' if own is None else f'{own.mean():.4g}' for own in found]


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
  """A table; every cell is escaped but those that are `Raw`."""
  def cell(content):
    return content if isinstance(content, Raw) else escape(content)
  top = ''.join(  # dotted names may break after a dot
      f'<th scope="col">{escape(name).replace(".", ".<wbr>")}</th>'
      for name in head)
  rows = ''.join(f'<tr>{"".join(f"<td>{cell(each)}</td>" for each in row)}</tr>'
                 for row in body)
  return (f'<div class="scroll"><table><thead><tr>{top}</tr></thead>'
          f'<tbody>{rows}</tbody></table></div>')


def _values(rows, name):
  return statistics.order([row.get(name) for row in rows])


def _where(rows, fixed):
  return [row for row in rows
          if all(row.get(name) == value for name, value in fixed.items())]
