"""Tables of the pages, and the one of attacks that both of them show."""

from collections.abc import Iterable, Sequence
from html import escape

from vidleak_jax.types import Row


def table(columns: Sequence[str], rows: Iterable[str]) -> str:
  """Returns a table; the rows are HTML."""
  head = ''.join(f'<th scope="col">{escape(name)}</th>' for name in columns)
  return (f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>'
          f'{"".join(rows)}</tbody></table></div>')


def row(name: str, numbers: Sequence[str], text: str = '') -> str:
  """Returns a row: its name, numbers that do not wrap, and a text."""
  cells = ''.join(f'<td class="number">{escape(each)}</td>' for each in numbers)
  return (f'<tr><th class="name" scope="row">{escape(name)}</th>{cells}'
          f'<td>{escape(text)}</td></tr>')


def attempts(rows: Sequence[Row], *, scored: bool) -> str:
  """Returns the attacks that were tried, in the order given.

  Args:
    rows: of each its name, gradient_residual, seconds and why_not; of scored
      ones psnr and ssim.
    scored: whether the truth is at hand.
  """
  columns = ['Attack', 'Gradient residual', *(
      ['PSNR, dB', 'SSIM'] if scored else []), 'Seconds', 'Remark']
  return table(columns, [row(each['name'], [
      _number(each['gradient_residual'], '.2g'),
      *([_number(each['psnr'], '.1f'), _number(each['ssim'], '.3f')]
        if scored else []),
      _number(each['seconds'] or None, '.0f')], each['why_not'])
                         for each in rows])


def _number(value: float | None, kind: str) -> str:
  return '–' if value is None else f'{value:{kind}}'
