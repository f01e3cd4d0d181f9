"""Heat maps and curves as HTML and SVG that the page's style colours."""

import math
from html import escape
from typing import Any

from vidleak_jax.evaluation.report import svg
from vidleak_jax.experiments.sweep.summary.statistics import Estimate

HEIGHT, TOP, BOTTOM = 260, 12, 44
MAX_LINES = svg.COLOURS


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
  across = _scale(xs, svg.LEFT, svg.WIDTH - svg.RIGHT,
                  math.log10 if log else float)
  up = _scale(ys, HEIGHT - BOTTOM, TOP, float)
  parts = [svg.y_tick(up(y), y) for y in _spread(min(ys), max(ys))]
  parts += [svg.text(across(x), HEIGHT - 26, f'{x:.3g}')
            for x in _thinned(sorted(set(xs)), across)]
  parts += [_line(i, name, line, across, up)
            for i, (name, line) in enumerate(lines.items())]
  title = field + (', logarithmic' if log else '')
  parts.append(svg.text((svg.LEFT + svg.WIDTH) / 2, HEIGHT - 6, title))
  return svg.chart(
      HEIGHT, f'means over {title}', parts,
      [(i, escape(name)) for i, name in enumerate(lines) if name])


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
  return (f'<g class="{svg.colour(index)}"><title>{escape(name)}</title>'
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
