"""Parts of charts as inline SVG, coloured by the page's style."""

from collections.abc import Iterable
from html import escape

WIDTH = 440
LEFT, RIGHT = 52, 14  # pixels beside the lines
COLOURS = 6           # s0 to s5 of the page's style


def colour(index: int) -> str:
  """Returns the class of the line of this number."""
  return f's{index % COLOURS}'


def y_tick(y: float, value: float) -> str:
  """Returns a grid line and its value, three digits."""
  return (f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" '
          f'y2="{y:.1f}"/>{text(LEFT - 6, y + 4, f"{value:.3g}", "end")}')


def text(x: float, y: float, words: str, anchor: str = 'middle') -> str:
  """Returns words at a place, escaped."""
  return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">'
          f'{escape(words)}</text>')


def chart(height: int, label: str, parts: Iterable[str],
          legend: Iterable[tuple[int, str]]) -> str:
  """Returns a chart with its legend.

  Args:
    height: pixels.
    label: what it shows, for those who cannot see it.
    parts: SVG elements.
    legend: (number of the line, HTML) of each entry.
  """
  entries = ''.join(f'<li class="{colour(i)}">{html}</li>'
                    for i, html in legend)
  return (f'<svg viewBox="0 0 {WIDTH} {height}" role="img" '
          f'aria-label="{escape(label)}">{"".join(parts)}</svg>'
          f'<ul class="legend">{entries}</ul>')
