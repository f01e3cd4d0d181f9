"""Writes docs/widths.png and the table beside it: recovery against width.

  python docs/make_widths.py [--rows=runs/widths.jsonl]

Layer peeling of one clip of the test split of `photo_motion` from one gradient
of R3D-18, with all widths divided alike: 14 minutes of processor time.
Rows are added to the file as they come; started again it goes on from there.
It needs matplotlib.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from absl import app, flags

import vidleak_jax as vl
from vidleak_jax import data, files
from vidleak_jax.evaluation import metrics
from vidleak_jax.models.resnet import ResNet, Style
from vidleak_jax.victims import base
from vidleak_jax.victims.resnet3d import PRESETS

PICTURE = Path(__file__).with_name('widths.png')
PAGE = Path(__file__).with_name('gradient.md')
WIDTHS = 8, 16, 32, 64  # channels of the first stage; 64 is R3D-18
CLIPS = (4, 16, 16, 3), (8, 16, 16, 3), (8, 32, 32, 3)
_NUM_CLASSES = 101
_BEGIN, _END = '<!-- widths -->', '<!-- end of widths -->'
_ROWS = flags.DEFINE_string('rows', 'runs/widths.jsonl', 'Where rows are kept.')


def network(width: int, clip_shape: tuple[int, ...]) -> vl.Victim:
  """Returns R3D-18 with `width` channels in its first stage."""
  full = PRESETS['full']
  size = full._replace(
      stem_width=width, stem_middle=0,
      widths=tuple(each * width // full.stem_width for each in full.widths))
  return base.from_module(
      ResNet(size, Style('relu', 'fixed', 'matmul'), _NUM_CLASSES, 'unit'),
      clip_shape, _NUM_CLASSES)


def measure(width: int, clip_shape: tuple[int, ...]) -> dict:
  """Returns the row of one network and size; `psnr` is None if refused."""
  frames, rows, _, _ = clip_shape
  sample = data.load('photo_motion', split='test', num_clips=1, seed=0,
                     num_frames=frames, frame_stride=1, image_size=rows,
                     original_size=rows, labels='random',
                     num_classes=_NUM_CLASSES)
  clips, labels = sample.batch
  victim = network(width, clip_shape)
  leak = vl.observe(victim, victim.init(jax.random.key(0)), clips, labels)
  colour = np.broadcast_to(clips.mean((1, 2, 3), keepdims=True), clips.shape)
  row = {'width': width, 'clip': clip_shape[:3],
         'floor': float(metrics.psnr(colour, clips).mean())}
  try:
    found = vl.attack(victim, leak, 'peeling', key=jax.random.key(1))
  except vl.UserError as error:
    return row | {'psnr': None, 'exact': False, 'why_not': str(error)}
  scores = vl.evaluate(found, clips)
  return row | {'psnr': float(scores.psnr[0]), 'exact': scores.num_exact == 1}


def draw(rows: Sequence[dict]) -> None:
  """Writes the picture."""
  import matplotlib
  matplotlib.use('Agg')
  from matplotlib import pyplot
  figure, axes = pyplot.subplots(figsize=(6.4, 3.6), layout='constrained')
  for clip in CLIPS:
    own = [row for row in rows if tuple(row['clip']) == clip[:3]]
    line, = axes.plot(
        [row['width'] for row in own],
        [row['floor'] if row['psnr'] is None else row['psnr'] for row in own],
        '-', label=_times(clip))
    for row in own:
      axes.plot(row['width'], row['psnr'] or row['floor'],
                'x' if row['psnr'] is None else 'o', color=line.get_color())
    axes.plot([row['width'] for row in own], [row['floor'] for row in own],
              ':', color=line.get_color())
  axes.set(xscale='log', xticks=WIDTHS, xticklabels=WIDTHS, ylabel='PSNR, dB',
           xlabel='channels of the first stage; x: refused')
  axes.minorticks_off()
  axes.legend(fontsize=8, title='clip; dotted: mean colour')
  figure.savefig(PICTURE, dpi=110)


def table(rows: Sequence[dict]) -> Iterator[str]:
  """Yields the table's lines."""
  yield '| first stage | ' + ' | '.join(map(_times, CLIPS)) + ' |'
  yield '|---' * (1 + len(CLIPS)) + '|'
  cells = {(row['width'], *row['clip']): row for row in rows}
  for width in WIDTHS:
    own = [cells[width, *clip[:3]] for clip in CLIPS]
    yield f'| {width} channels | ' + ' | '.join(map(_cell, own)) + ' |'


def _cell(row):
  result = ('refused' if row['psnr'] is None else
            'exact' if row['exact'] else f'{row["psnr"]:.1f}')
  return f'{result} ({row["floor"]:.1f})'


def _times(clip):
  return 'x'.join(map(str, clip[:3]))


def main(_: Sequence[str]) -> None:
  """Measures what is missing, draws, and replaces the table in the page."""
  path = Path(_ROWS.value)
  path.parent.mkdir(parents=True, exist_ok=True)
  rows = [json.loads(line) for line in path.read_text().splitlines()
          ] if path.exists() else []
  done = {(row['width'], *row['clip']) for row in rows}
  for clip in CLIPS:
    for width in WIDTHS:
      if (width, *clip[:3]) not in done:
        rows.append(measure(width, clip))
        print(json.dumps(rows[-1]), flush=True)
        with files.replacing(path) as part:
          part.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  draw(rows)
  before, rest = PAGE.read_text().split(_BEGIN)
  after = rest.split(_END)[1]
  lines = '\n'.join(table(rows))
  PAGE.write_text(f'{before}{_BEGIN}\n{lines}\n{_END}{after}')


if __name__ == '__main__':
  app.run(main)
