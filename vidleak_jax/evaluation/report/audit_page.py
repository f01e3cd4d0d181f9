"""audit.html: one page for those who decide; no scripts, no network."""

import shlex
import string
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from vidleak_jax import files
from vidleak_jax.evaluation import report
from vidleak_jax.evaluation.report import page, pictures, settings, tables
from vidleak_jax.types import Array, Row

_MAX_FRAMES = 6
_TITLES = {'recovered': 'The server can see the video',
           'partly': 'The server can see a part of the video'}
_NOTHING = 'These attacks saw nothing of the video'


def write(
    path: Path, *, result: Row, recovered: Array | None, truth: Array | None,
    names: Sequence[str], knowledge: Row, setup: Row,
) -> None:
  """Writes the page, whole or not at all.

  Args:
    path: of audit.html.
    result: the object of audit.json, or what there is of it so far.
    recovered: [N, T, H, W, C] in [0, 1]; None where no attack answered.
    truth: same shape, in the same order; None where nobody knows it.
    names: of the clips, or none.
    knowledge: the object of leak.json.
    setup: the object of config.json.
  """
  template = resources.files(__package__).joinpath('audit.html').read_text(
      encoding='utf-8')
  html = string.Template(template).substitute(
      title=escape(_title(result)), style=page.style(),
      sentence=escape(result['sentence']),
      kind='safe' if _sees_nothing(result) else 'leak',
      verdict=escape(result['verdict']),
      pictures=_pictures(recovered, truth, names),
      advice=_advice(result), curve=settings.charts(result['curve'], result),
      attacks=_attacks(result), bounds=_bounds(result),
      layers=_layers(result['layers']), checks=_checks(result['self_check']),
      knowledge=page.facts(knowledge), run=_run(result, setup))
  with files.replacing(path) as partial:
    partial.write_text(html, encoding='utf-8')


def _sees_nothing(result) -> bool:
  """By the judge where the truth is at hand, else by the verdict."""
  found = [row['psnr'] for row in (result, *result['attacks'])
           if row['psnr'] is not None]
  if found:
    return max(found) <= result['floor'] + settings.MARGIN
  return result['verdict'] not in _TITLES


def _title(result) -> str:
  if _sees_nothing(result):
    return _NOTHING
  return _TITLES.get(result['verdict'], _TITLES['partly'])


def _pictures(recovered, truth, names) -> str:
  if recovered is None:
    return '<p>No attack gave an answer, so there is nothing to show.</p>'
  views = report.views_of(truth, recovered)
  if truth is not None:
    views = {'what the client filmed': views['truth'],
             'what the server computes': views['recovery']}
  else:
    views = {'what the server computes': views['recovery']}
  frames = pictures.spread(recovered.shape[1], _MAX_FRAMES)
  count = len(next(iter(views.values())))
  names = names or [f'clip {i}' for i in range(len(recovered))]
  shown = ''.join(page.figure(views, clip, names[clip], frames, {})
                  for clip in range(count))
  note = '' if count == len(recovered) else (
      f'<p class="quiet">The first {count} of {len(recovered)} clips; all are '
      'in recovered.npz.</p>')
  unknown = '' if truth is not None else (
      '<p class="quiet">Nobody here knows the true clip: compare it with what '
      'you trained on.</p>')
  return shown + note + unknown


def _advice(result) -> str:
  rows = result.get('what_would_stop_it')
  if rows is None:
    return '<p>Other settings are still being measured.</p>'
  items = ''.join(
      f'<li>{escape(row["words"])}{_tag(row)}</li>' for row in rows)
  return f'<ul class="advice">{items}</ul>'


def _tag(row) -> str:
  if not row['change']:
    return ''
  if row['measured']:
    return ' <span class="quiet">(measured)</span>'
  return ' <span class="quiet">(theory)</span>'


def _attacks(result) -> str:
  has_truth = result['psnr'] is not None
  rows = sorted(result['attacks'], key=lambda row: (
      row['gradient_residual'] is None, row['gradient_residual'] or 0))
  floor = '' if not has_truth else (
      f'<p class="quiet">A guess without the update has '
      f'{result["floor"]:.1f} dB.</p>')
  return floor + tables.attempts(rows, scored=has_truth)


def _bounds(result) -> str:
  found: Mapping[str, Any] = result['bounds']
  parts = [f'<p>{escape(found["words"])}</p>']
  measured = '' if result['psnr'] is None else tables.row(
      'Measured here', [f'{result["psnr"]:.1f} dB'],
      'the answer with the lowest residual; an attack with knowledge of how '
      'videos look may pass the limits below')
  rows = [
      tables.row(title, [f'{found[key]:.1f} dB'], words)
      for key, title, words in (
          ('cramer_rao_psnr', 'Cramér–Rao limit',
           'no unbiased attack on this update gets beyond'),
          ('no_prior_psnr', 'Without a prior',
           'the most that any network would show to an attacker who knows '
           'nothing of videos'))
      if found.get(key) is not None]
  if rows:
    parts.append(tables.table(
        ['Limit', 'PSNR', 'What it says'], [measured, *rows]))
  if found.get('reconstruction'):
    parts.append(tables.table(
        ['Chance of the right guess without the update',
         'With the update, at most'],
        [f'<tr><td>{each["guess"]:g}</td><td>{each["at_most"]:.3g}</td></tr>'
         for each in found['reconstruction']]))
    parts.append(
        '<p>The same table bounds a test of whether a known clip was used: at '
        'a false positive rate of the first column, the true positive rate is '
        'at most the second. Their gap is at most '
        f'{found["advantage"]:.3g} at any rate.</p>')
    if not found['is_guarantee']:
      parts.append('<p class="quiet">As if the client clipped its updates; '
                   'it does not, so this is no guarantee.</p>')
  return ''.join(parts)


def _layers(rows) -> str:
  if not rows:
    return '<p>No answer, so nothing to measure it at.</p>'
  bars = ''.join(
      f'<span>{escape(row["layer"])}</span><i role="img" aria-label="'
      f'{row["share"]:.1%}" style="width:{100 * row["share"]:.2f}%"></i>'
      f'<span>{row["share"]:.1%} <span class="quiet">of '
      f'{row["entries"]:,} numbers</span></span>' for row in rows[:12])
  return (f'<div class="bars">{bars}</div><p class="quiet">Share of the '
          'Fisher information about the pixels, were each number of the update '
          'blurred alike. Not sending a layer removes its share, not the rest.'
          '</p>')


def _checks(rows) -> str:
  if not rows:
    return ('<p>Nothing speaks against it: no trace of a filter or of noise '
            'was found.</p>')
  return tables.table(['Check', 'Result', 'What was found'], [
      tables.row(row['name'], [row['status']], row['text']) for row in rows])


def _run(result, setup) -> str:
  spent = ''
  if result.get('budget_was_spent'):
    spent = ('<p><b>The budget ended before everything was tried.</b> The same '
             'command with a larger --budget goes on from here.</p>')
  shown = {'budget, seconds': result.get('budget_seconds'),
           'seconds': result.get('seconds'),
           'device': setup.get('device_kind')}
  command = setup.get('command')
  line = command if isinstance(command, str) else shlex.join(command or [])
  return (spent + page.facts({k: v for k, v in shown.items() if v is not None})
          + f'<h3>To repeat it</h3><pre>{escape(line)}</pre><details><summary>'
          f'The whole configuration</summary>{page.facts(setup)}</details>')
