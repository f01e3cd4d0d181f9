"""What the scores say: the headline and the table, floors beside the score."""

from collections.abc import Sequence
from html import escape

from vidleak_jax.evaluation.metrics import CEILING
from vidleak_jax.evaluation.report import tables

FLOORS = {'unrelated': 'Unrelated clip', 'mean_frame': 'Mean colour',
          'reference': 'Reference copied'}
_HIDDEN = 0.02  # share of pixel directions that is worth a sentence
SCALE = 60  # dB, the full length of a gauge

NOTES = (
    '<footer class="quiet">PSNR in dB and SSIM against the clip at the '
    'attacked resolution, each frame by itself, then averaged; both from '
    'floats in [0, 1]. A frame’s PSNR ends at 100 dB; a clip is exact where no '
    'error reaches half a level of 256. Floors are answers that need no '
    'gradient, scored the same way: a clip of another scene, the true clip’s '
    'own mean colour, and, where the attacker holds one, a reference frame '
    'copied. Clips and frames are shown in order, none was picked by its '
    'score.</footer>')


def headline(result: dict) -> tuple[str, list[str]]:
  """A title, and the sentences below it."""
  if 'psnr' not in result:
    return 'Recovered from the leak alone', [
        'No truth was at hand: this page shows the recovery without a score.',
        *_verdict(result)]
  margins = _margins(result)
  above, count = sum(m > 0 for m in margins), len(margins)
  lines = [f'PSNR {result["psnr"]:.1f} dB on average{_capped(result)}, against '
           f'{_best_floor(result):.1f} dB for the best floor, an answer that '
           'needs no gradient.', *_verdict(result)]
  if exact := result.get('num_exact'):
    lines.append(f'Exact to 8 bits: {exact} of {count}.')
  if above < count:
    lines.append(
        f'Below the floor: {count - above} of {count}. There this attack '
        'showed no leak, which does not prove that there is none.')
  if 'psnr_enhanced' in result:
    gain = result['psnr_enhanced'] - result['psnr_bicubic']
    lines.append(f'Super-resolution reaches {result["psnr_enhanced"]:.1f} dB '
                 f'against the original, {gain:+.1f} dB over bicubic.')
  if not above:
    return 'Below the floor: no clip was recovered', lines
  if count == 1:
    return 'The clip was recovered, above the floor', lines
  who = f'All {count}' if above == count else f'{above} of {count}'
  return f'{who} clips recovered above the floor', lines


def _capped(result) -> str:
  """Says where a mean holds frames at the end of the scale."""
  frames = [x for clip in result.get('psnr_per_frame', ()) for x in clip]
  at_end = sum(x >= CEILING for x in frames)
  return (f' ({at_end} of {len(frames)} frames count as {CEILING:.0f}, the '
          'most there is)' if at_end else '')


def tried(result: dict) -> str:
  """What `auto` tried, or nothing where one attack was named."""
  attempts = result.get('attempts')
  if not attempts:
    return ''
  return ('<h2>Attacks</h2><p class="quiet">The gradient residual is the '
          'relative distance of the update that an answer would cause from the '
          'one observed. It alone ranks attacks.</p>'
          + tables.attempts(attempts, scored=False))


def _verdict(result: dict) -> list[str]:
  """The verdict as sentences, where there is one."""
  if not result.get('verdict'):
    return []
  lines = [f'Verdict, without the truth: {result["verdict"]} '
           f'({result["attack"]}, gradient residual '
           f'{result["gradient_residual"]:.2g}). It is about the attacks that '
           'were tried; it never says that an update is safe.']
  hidden = max((share or 0.0 for share in
                result.get('undetermined_per_update', ())), default=0.0)
  if hidden > _HIDDEN:
    lines.append(f'Other clips explain an update as well as this answer: '
                 f'{100 * hidden:.0f} % of what its pixels can do is not in '
                 'the update.')
  return lines


def table(result: dict, names: Sequence[str]) -> str:
  """Scores per clip and their means, or nothing where there are none."""
  if 'psnr' not in result:
    return ''
  columns = {'psnr': 'Recovery'} | {
      f'psnr_{floor}': label for floor, label in FLOORS.items()
      if f'psnr_{floor}' in result} | {
      f'psnr_{kind}': f'{kind.title()} against original'
      for kind in ('enhanced', 'bicubic') if f'psnr_{kind}' in result}
  head = ''.join(f'<th scope="col">{label}</th>' for label in columns.values())
  rows = [_row(escape(str(name)), columns, _of_clip(result, i), margin)
          for i, (name, margin) in enumerate(
              zip(names, _margins(result), strict=True))]
  mean = '' if len(rows) == 1 else (
      f'<tfoot>{_row("Mean", columns, result, None)}</tfoot>')
  return ('<h2>Scores</h2><p class="quiet">PSNR in dB, SSIM below it. The bar '
          f'is the recovery, the mark its best floor, on a scale to {SCALE} '
          'dB.</p><div class="scroll"><table class="scores"><thead><tr>'
          f'<th scope="col">Clip</th><th scope="col">Above the floor</th>{head}'
          f'</tr></thead><tbody>{"".join(rows)}</tbody>{mean}</table></div>')


def _row(name, columns, scores, margin):
  cells = ''.join(
      f'<td>{scores[key]:.1f}<small>{_ssim(scores[f"ssim{key[4:]}"])}</small>'
      '</td>' for key in columns)
  if margin is None:
    return f'<tr><th scope="row">{name}</th><td></td>{cells}</tr>'
  kind = 'leak' if margin > 0 else 'safe'
  place = [min(100.0, max(0.0, 100 * x / SCALE))
           for x in (scores['psnr'], scores['psnr'] - margin)]
  gauge = (f'<div class="gauge {kind}"><i style="width:{place[0]:.1f}%"></i>'
           f'<b style="left:{place[1]:.1f}%"></b></div>')
  words = f'{margin:+.1f} dB' + ('' if margin > 0 else '<br>below the floor')
  return (f'<tr><th scope="row">{name}{gauge}</th>'
          f'<td class="{kind}">{words}</td>{cells}</tr>')


def _ssim(value):
  return '–' if value is None else f'{value:.3f}'


def _of_clip(result, i):
  """The scores of clip `i`, under the names that the means have."""
  end = '_per_clip'
  return {key.removesuffix(end): value[i]
          for key, value in result.items() if key.endswith(end)}


def _best_floor(scores):
  return max(scores[f'psnr_{f}'] for f in FLOORS if f'psnr_{f}' in scores)


def _margins(result):
  """How far each clip lies above the best of its floors, in dB."""
  clips = range(len(result['psnr_per_clip']))
  return [s['psnr'] - _best_floor(s)
          for s in (_of_clip(result, i) for i in clips)]
