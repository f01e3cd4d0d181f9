"""Recovery at other settings: charts as SVG, and what was not measured."""

from collections.abc import Sequence
from html import escape

from vidleak_jax.evaluation.report import svg
from vidleak_jax.types import Row

MARGIN = 1.0  # dB above the best floor from which an answer shows something
HEIGHT, TOP, BOTTOM = 220, 14, 44
_TITLES = {'defense.noise_std': 'Noise on every entry (standard deviation)',
           'defense.dp_sgd.noise_multiplier': 'Noise multiplier of DP-SGD',
           'defense.clip_norm': 'Largest norm of the update',
           'data.num_clips': 'Clips averaged in one update'}


def charts(rows: Sequence[Row], now: Row) -> str:
  """Returns a chart a setting.

  Args:
    rows: of audit.json's `curve`.
    now: the scores at the present setting, `psnr` and `floor`.
  """
  if not rows:
    return ('<p>Nothing was measured: only a simulated client can be asked for '
            'other settings.</p>')
  parts, missing = [], []
  for setting, title in _TITLES.items():
    own = [row for row in rows if row['setting'] == setting]
    measured = sorted((row for row in own if row['psnr'] is not None),
                      key=lambda row: row['value'])
    missing += [f'{title.split(" (")[0]} {row["value"]:g}: {row["why_not"]}'
                for row in own if row['psnr'] is None]
    if measured:
      parts.append(f'<div><h3>{escape(title)}</h3>'
                   f'{_chart(title, measured, now)}</div>')
  left = ''.join(f'<li>{escape(each)}</li>' for each in missing)
  return (f'<div class="charts">{"".join(parts)}</div><p class="quiet">Each '
          'point is a client of its own, attacked by those who know its '
          'setting. An open circle is an attack that the budget stopped early: '
          'more time shows more. Clipping alone only scales the update.</p>'
          + (f'<ul class="advice quiet">{left}</ul>' if left else ''))


def _chart(title: str, rows: Sequence[Row], now: Row) -> str:
  """PSNR by setting, the present one first, and the floor of each."""
  shown = [('now', now), *((f'{row["value"]:g}', row) for row in rows)]
  top = max(10.0, *(row['psnr'] for _, row in shown)) * 1.15
  step = (svg.WIDTH - svg.LEFT - svg.RIGHT) / len(shown)

  def height(value: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * max(value, 0.0) / top
  parts = [svg.y_tick(height(each), each)
           for each in range(0, int(top) + 1, 10 if top < 50 else 20)]
  for index, (name, row) in enumerate(shown):
    x = svg.LEFT + step * (index + 0.5)
    y = height(row['psnr'])
    kind = 'open' if row.get('why_not') else ''
    parts += [
        f'<g class="s0"><circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="5">'
        f'<title>{escape(name)}: {row["psnr"]:.1f} dB</title></circle></g>',
        svg.text(x, y - 9, f'{row["psnr"]:.1f}'),
        f'<line class="floor" x1="{x - step * 0.4:.1f}" x2="'
        f'{x + step * 0.4:.1f}" y1="{height(row["floor"]):.1f}" '
        f'y2="{height(row["floor"]):.1f}"/>',
        svg.text(x, HEIGHT - 26, name)]
  words = '; '.join(f'{name}: {row["psnr"]:.1f} dB, floor {row["floor"]:.1f}'
                    for name, row in shown)
  return svg.chart(HEIGHT, f'{title}. PSNR {words}', parts, [
      (0, 'PSNR, dB'), (5, 'dashed: the floor of a guess')])
