"""report.html: one page, filled into page.html; no scripts, no network."""

import base64
import shlex
import string
from collections.abc import Iterator, Mapping
from html import escape
from importlib import resources
from pathlib import Path

from vidleak_jax.evaluation.report import curves, pictures, verdict

EMBED_LIMIT = 4_000_000  # bytes; a larger video stands only beside the page


def render(*, views, names, frames, result, metrics_rows, public, setup,
           video: Path, codec: str) -> str:
  """The page; arguments as in `report.write`, views and frames as shown."""
  template = resources.files(__package__).joinpath('page.html').read_text(
      encoding='utf-8')
  title, summary = verdict.headline(result)
  shown = len(next(iter(views.values())))
  note = ('' if shown == len(names) else
          f'<p class="quiet">The first {shown} of {len(names)} clips; all are '
          'in recovered.npz.</p>')
  figures = ''.join(
      figure(views, clip, names[clip], frames, result)
      for clip in range(shown))
  return string.Template(template).substitute(
      title=escape(title),
      summary=''.join(f'<p>{escape(line)}</p>' for line in summary),
      scores=verdict.table(result, names),
      tried=verdict.tried(result),
      figures=note + figures,
      video=_video(video, codec),
      curves=_curves(metrics_rows),
      public=facts(public),
      run=_run(result, setup),
      notes=verdict.NOTES if 'psnr' in result else '')


def style() -> str:
  """Returns the style that the pages share: light and dark, no network."""
  text = resources.files(__package__).joinpath('page.html').read_text(
      encoding='utf-8')
  return text.partition('<style>')[2].partition('</style>')[0]


def facts(values: Mapping) -> str:
  """A table of names and values; nested objects as dotted names."""
  if not values:
    return '<p>Nothing was recorded.</p>'
  rows = ''.join(f'<tr><th scope="row">{escape(name)}</th>'
                 f'<td>{escape(value)}</td></tr>'
                 for name, value in _flat(values))
  return f'<table class="facts"><tbody>{rows}</tbody></table>'


def _flat(values, prefix='') -> Iterator[tuple[str, str]]:
  for key, value in values.items():
    name = f'{prefix}{key}'.replace('_', ' ')
    if isinstance(value, Mapping) and value:
      yield from _flat(value, f'{name}.')
    else:
      yield name, _words(value)


def _words(value) -> str:
  """A value for people; long lists are cut short and say so."""
  if value is None:
    return 'none'
  if isinstance(value, bool):
    return 'yes' if value else 'no'
  if isinstance(value, float):
    return f'{value:.6g}'
  if isinstance(value, list | tuple):
    cut = f', … ({len(value)} in all)' if len(value) > 12 else ''
    return (', '.join(map(_words, value[:12])) or 'none') + cut
  return str(value)


def figure(views: dict, clip: int, name: str, frames: list[int],
           result: Mapping) -> str:
  """Returns one clip: a strip for each view, and the PSNR below each frame."""
  strips = ''.join(
      f'<span>{escape(view)}</span><img alt="{escape(view)} of '
      f'{escape(str(name))}" src="{_data("image/png", image)}">'
      for view, image in ((k, pictures.strip(v[clip], frames))
                          for k, v in views.items()))
  below = ''
  if 'psnr_per_frame' in result:
    scores = result['psnr_per_frame'][clip]
    cells = ''.join(f'<div>{scores[frame]:.1f} dB</div>' for frame in frames)
    below = f'<div class="columns">{cells}</div>'
  length = next(iter(views.values())).shape[1]
  cut = '' if len(frames) == length else (
      f'{len(frames)} of {length} frames, evenly spread: '
      f'{", ".join(map(str, frames))}.')
  return (f'<figure><h3>{escape(str(name))}</h3><div class="scroll">'
          f'<div class="strips" style="--n:{len(frames)}">{strips}{below}</div>'
          f'</div><figcaption>{cut}</figcaption></figure>')


def _video(path, codec):
  """The file beside the page, and a copy inside for a page sent on alone."""
  content = path.read_bytes()
  inside = (f'<source src="{_data("video/mp4", content)}" type="video/mp4">'
            if len(content) <= EMBED_LIMIT else '')
  plays = '' if codec == 'h264' else (
      f' Encoded as {escape(codec)}, since this machine has no H.264 encoder: '
      'browsers may refuse it, video players will not.')
  return (f'<video controls loop muted autoplay playsinline>'
          f'<source src="{escape(path.name)}" type="video/mp4">{inside}</video>'
          f'<p class="quiet"><a href="{escape(path.name)}">{escape(path.name)}'
          f'</a>, repeated so that short clips can be watched.{plays}</p>')


def _curves(rows):
  charts = curves.charts(rows)
  if not charts:
    return '<p>No steps were logged; a closed form has none.</p>'
  parts = ''.join(f'<div><h3>{escape(title)}</h3>{svg}</div>'
                  for title, svg in charts)
  return (f'<div class="charts">{parts}</div><p class="quiet">Against steps; '
          'the figures are the last values.</p>')


def _run(result, setup):
  """Cost and device, versions, the command to repeat, the whole config."""
  shown = {name.removeprefix('num_'): value for name, value in result.items()
           if not name.startswith(('psnr', 'ssim')) and name != 'attempts'}
  if shown.get('peak_memory_bytes'):
    shown['peak_memory_MiB'] = shown.pop('peak_memory_bytes') / 2 ** 20
  parts = [facts(shown | setup.get('versions', {}))]
  if command := setup.get('command'):
    line = command if isinstance(command, str) else shlex.join(command)
    parts.append(f'<h3>To repeat it</h3><pre>{escape(line)}</pre>')
  if setup:
    parts.append('<details><summary>The whole configuration</summary>'
                 f'{facts(setup)}</details>')
  return ''.join(parts)


def _data(kind, content):
  return f'data:{kind};base64,{base64.b64encode(content).decode()}'
