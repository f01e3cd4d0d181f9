"""Curves of metrics.jsonl as inline SVG, coloured by the page's style."""

import math
from html import escape

from vidleak_jax.evaluation.report import svg

HEIGHT, TOP, BOTTOM = 240, 10, 30
MAX_POINTS = 400
ASIDE = ('step', 'seconds', 'message')  # columns that are no curve


def charts(rows: list[dict]) -> list[tuple[str, str]]:
  """(title, SVG) of the objective's terms and of the best loss."""
  names = {name: None for row in rows for name, value in row.items()
           if name not in ASIDE and isinstance(value, int | float)}
  best = [name for name in names if name.startswith('best')]
  groups = {'Objective and its terms': [n for n in names if n not in best],
            'Best so far': best}
  return [(title, chart({n: _points(rows, n) for n in group}))
          for title, group in groups.items() if group]


def chart(series: dict[str, list[tuple[float, float]]]) -> str:
  """One chart of named (step, value) lines. The axis is logarithmic where no
  value is negative and they span a factor of 20; zeros are not drawn there."""
  drawn = series
  values = [y for line in series.values() for _, y in line]
  above = [y for y in values if y > 0]
  log = min(values) >= 0 and bool(above) and max(above) > 20 * min(above)
  if log:
    values = above
    drawn = {k: [p for p in line if p[1] > 0] for k, line in series.items()}
  ticks = (_decades if log else _round_ticks)(min(values), max(values))
  scale = math.log10 if log else float
  y_low, y_high = scale(ticks[0]), scale(ticks[-1])
  last = max(x for line in series.values() for x, _ in line) or 1

  def at(x, y):
    share = (scale(y) - y_low) / (y_high - y_low)
    return (svg.LEFT + (svg.WIDTH - svg.LEFT - svg.RIGHT) * x / last,
            HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * share)

  axes = [svg.y_tick(at(0, y)[1], y) for y in ticks]
  axes += [svg.text(at(x, ticks[0])[0], HEIGHT - 10, f'{x:g}')
           for x in _round_ticks(0, last) if x <= last]
  lines = [_line(i, name, [at(x, y) for x, y in line])
           for i, (name, line) in enumerate(drawn.items())]
  kind = ', logarithmic' if log else ''
  return svg.chart(
      HEIGHT, f'{", ".join(series)} over steps{kind}', axes + lines,
      [(i, f'{escape(name.replace("_", " "))} <b>{line[-1][1]:.3g}</b>')
       for i, (name, line) in enumerate(series.items())])


def _points(rows, name):
  """(step, value) where there is one, thinned, the last one kept."""
  points = [(row['step'], row[name]) for row in rows
            if row.get(name) is not None]
  stride = math.ceil(len(points) / MAX_POINTS)
  return points[::-stride][::-1]


def _line(index, name, points):
  """A polyline that breaks where a next message starts over."""
  parts, before = [], math.inf
  for x, y in points:
    parts.append(f'{"M" if x < before else "L"}{x:.1f} {y:.1f}')
    before = x
  return (f'<path class="{svg.colour(index)}" d="{"".join(parts)}">'
          f'<title>{escape(name)}</title></path>')


def _decades(low, high):
  first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
  stride = math.ceil((last - first) / 6)
  return [10.0 ** n for n in range(first, last + stride, stride)]


def _round_ticks(low, high):
  """Two to seven round numbers that cover [low, high]."""
  if low == high:
    high = low + (abs(low) or 1)
  span = high - low
  unit = 10 ** math.floor(math.log10(span / 4))
  unit *= next(m for m in (1, 2, 5, 10) if unit * m * 5 >= span)
  return [n * unit for n in range(
      math.floor(low / unit), math.ceil(high / unit) + 1)]
