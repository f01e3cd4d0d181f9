"""The best and the worst trials: their pictures, and how they got there."""

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

from vidleak_jax.evaluation.report import curves
from vidleak_jax.experiments.sweep import outcomes
from vidleak_jax.experiments.sweep.summary import charts, statistics
from vidleak_jax.runtime import progress
from vidleak_jax.types import Row

PICTURES = 3  # of the best, and of the worst


def render(folder: Path, rows: Sequence[Row],
           fields: Sequence[str], metric: str, label: str) -> str:
  """Figures of trials ranked by a metric, and one chart of all of them.

  Args:
    folder: of the sweep.
    rows: of trials that are done.
    fields: swept, told below each picture.
    metric: what ranks.
    label: its name for people.
  """
  scored = [row for row in rows if statistics.values(row, metric) is not None]
  ranked = sorted(scored, key=lambda row: -_score(row, metric))
  count = min(PICTURES, len(ranked) // 2)
  ends = {'Best': ranked[:count], 'Worst': ranked[len(ranked) - count:]}
  if not count:
    return ''
  figures = ''.join(_figure(folder, kind, row, fields, metric)
                    for kind, own in ends.items() for row in own)
  return (f'<h2>Best and worst recoveries</h2><p class="quiet">By: '
          f'{escape(label)}.</p>'
          f'{figures}{_steps(folder, ends, metric)}')


def link(name: str) -> str:
  """To a trial's own report."""
  return f'<a href="trials/{escape(name)}/report.html">{escape(name[:8])}</a>'


def _score(row, metric):
  values = statistics.values(row, metric)
  assert values is not None  # of trials that have this metric
  return float(values.mean())


def _figure(folder, kind, row, fields, metric):
  picture = outcomes.home(folder, row['trial']) / 'comparison.png'
  shown = 'It has no picture.'
  if picture.exists():
    content = base64.b64encode(picture.read_bytes()).decode()
    shown = f'<img alt="{kind}" src="data:image/png;base64,{content}">'
  varied = ', '.join(f'{name} {charts.words(row.get(name))}' for name in fields)
  return (f'<figure><h3>{kind}: {_score(row, metric):.2f}, '
          f'{link(row["trial"])}</h3><div class="scroll">{shown}</div>'
          f'<figcaption>{escape(varied)}</figcaption></figure>')


def _steps(folder, ends, metric):
  """Their best losses over the steps of the attack, where it had steps."""
  lines = {}
  for kind, rows in ends.items():
    for row in rows:
      log = outcomes.home(folder, row['trial']) / 'metrics.jsonl'
      points = [(each['step'], each['best_loss'])
                for each in progress.read_rows(log)
                if each.get('best_loss') is not None]
      if points:
        name = f'{kind.lower()} {_score(row, metric):.2f} {row["trial"][:8]}'
        lines[name] = points
  if not lines:
    return ''
  return ('<h3>Best loss over the steps of these</h3>'
          f'<div>{curves.chart(lines)}</div>')
