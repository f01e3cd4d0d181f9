"""Heat maps and curves as HTML and SVG that the page's style colours."""

import math
from html import escape
from typing import Any

from vidleak_jax.experiments.sweep.summary.statistics import Estimate

WIDTH, HEIGHT = 440, 260
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 12, 44
MAX_LINES = 6  # colours of the page's style


def words(value: Any) -> str:
  """A value as a person would write it."""
  return f'{value:.4g}' if isinstance(value, float) else str(value)


def heat_map(cells: dict[tuple[str, str], Estimate], down: str,
             across: str) -> str:
  """A table of means.

  Args:
    cells: (value of `down`, value of `across`), as words, -> what stands there.
    down: the field of the rows.
    across: the field of the columns.
  """
  means = [cell.mean for cell in cells.values()]
  low, span = min(means), (max(means) - min(means)) or 1
  rows = dict.fromkeys(key[0] for key in cells)
  columns = dict.fromkeys(key[1] for key in cells)
  head = ''.join(f'<th scope="col">{escape(name)}</th>' for name in columns)
  body = ''.join(
      f'<tr><th scope="row">{escape(row)}</th>'
      + ''.join(_cell(cells.get((row, column)), low, span)
                for column in columns) + '</tr>' for row in rows)
  return (f'<div class="scroll"><table class="heat"><caption>{escape(down)} '
          f'down, {escape(across)} across</caption><thead><tr><td></td>{head}'
          f'</tr></thead><tbody>{body}</tbody></table></div>')


def _cell(cell, low, span):
  if cell is None:
    return '<td></td>'
  share = round(75 * (cell.mean - low) / span)
  interval = '' if math.isnan(cell.low) else (
      f' title="{cell.low:.2f} to {cell.high:.2f}"')
  return f'<td style="--share:{share}%"{interval}>{cell.mean:.2f}</td>'


def curve(lines: dict[str, list[tuple[float, Estimate]]], field: str) -> str:
  """Means over a field that is a number, with their intervals.

  The axis is logarithmic where values are positive and span a factor of 10.

  Args:
    lines: name -> (value of the field, estimate), by value.
    field: its name.
  """
  xs = [x for line in lines.values() for x, _ in line]
  ys = [y for line in lines.values() for _, each in line
        for y in each[:3] if not math.isnan(y)]
  log = min(xs) > 0 and max(xs) >= 10 * min(xs)
  across = _scale(xs, LEFT, WIDTH - RIGHT, math.log10 if log else float)
  up = _scale(ys, HEIGHT - BOTTOM, TOP, float)
  parts = [_y_tick(up(y), y) for y in _spread(min(ys), max(ys))]
  parts += [_x_tick(across(x), x) for x in _thinned(sorted(set(xs)), across)]
  parts += [_line(i, name, line, across, up)
            for i, (name, line) in enumerate(lines.items())]
  legend = ''.join(f'<li class="s{i % MAX_LINES}">{escape(name)}</li>'
                   for i, name in enumerate(lines) if name)
  title = escape(field) + (', logarithmic' if log else '')
  return (f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="means '
          f'over {title}">{"".join(parts)}<text x="{(LEFT + WIDTH) / 2}" '
          f'y="{HEIGHT - 6}" text-anchor="middle">{title}</text></svg>'
          f'<ul class="legend">{legend}</ul>')


def _scale(found, start, end, by):
  low, high = by(min(found)), by(max(found))
  span = (high - low) or 1
  return lambda x: start + (end - start) * (by(x) - low) / span


def _line(index, name, points, across, up):
  places = [(across(x), up(each.mean)) for x, each in points]
  path = 'M' + 'L'.join(f'{x:.1f} {y:.1f}' for x, y in places)
  bars = ''.join(
      f'<path d="M{across(x):.1f} {up(each.low):.1f}V{up(each.high):.1f}"/>'
      for x, each in points if not math.isnan(each.low))
  dots = ''.join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"/>'
                 for x, y in places)
  return (f'<g class="s{index % MAX_LINES}"><title>{escape(name)}</title>'
          f'<path d="{path}"/>{bars}{dots}</g>')


def _spread(low, high, count=5):
  return [low + (high - low) * i / (count - 1) for i in range(count)]


def _thinned(xs, across, gap=34):
  """Values whose labels do not run into each other."""
  kept: list[Any] = []
  for x in xs:
    if not kept or across(x) - across(kept[-1]) >= gap:
      kept.append(x)
  return kept


def _y_tick(y, value):
  return (f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" '
          f'y2="{y:.1f}"/><text x="{LEFT - 6}" y="{y + 4:.1f}" '
          f'text-anchor="end">{value:.3g}</text>')


def _x_tick(x, value):
  return (f'<text x="{x:.1f}" y="{HEIGHT - 26}" text-anchor="middle">'
          f'{value:.3g}</text>')
