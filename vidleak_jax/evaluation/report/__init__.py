"""Shows a finished attack: comparison.png, comparison.mp4 and report.html.

The page opens from disk without network or scripts. Only pictures go through
here; every figure on the page comes from result.json's object.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vidleak_jax import files
from vidleak_jax.evaluation.report import movie, page, pictures
from vidleak_jax.superres import degrade
from vidleak_jax.types import Array, UserError

MAX_CLIPS = 8   # shown; the first ones, never the best
MAX_FRAMES = 8  # shown as stills, spread evenly over the clip


class Report(NamedTuple):
  """Where the files are."""
  page: Path
  picture: Path
  video: Path


def write(workdir: str | os.PathLike, *, truth: Array | None,
          recovered: Array, result: dict, metrics_rows: Sequence[dict],
          public: dict, names: Sequence[str], fps: float,
          enhanced: Array | None = None, original: Array | None = None,
          setup: dict | None = None) -> Report:
  """Writes the three files of a report, each whole or not at all.

  Args:
    workdir: where they go; made if absent.
    truth: [N, T, H, W, C] float in [0, 1], C 1 or 3; None when the attack ran
      from a leak file alone.
    recovered: same shape, in the truth's order.
    result: the object of result.json. Scores are shown when it has them.
    metrics_rows: the rows of metrics.jsonl; empty for a closed form.
    public: the object of leak.json: what the attacker knew.
    names: a name for each of the N clips.
    fps: frames per second of the clips.
    enhanced: [N, T, H', W', C], the super-resolved recovery; shown beside the
      recovery enlarged by bicubic interpolation.
    original: same shape, the truth at high resolution.
    setup: the object of config.json. Its `command` (words, or one line) is
      shown as the command to repeat, its `versions` beside the device.

  Raises:
    UserError: shapes, names or values that do not fit together.
  """
  workdir = Path(workdir)
  workdir.mkdir(parents=True, exist_ok=True)
  views = views_of(truth, recovered, enhanced, original)
  if len(names) != len(recovered):
    raise UserError(f'Got {len(names)} names for {len(recovered)} clips.')
  if not 0 < fps < 1000:
    raise UserError(f'fps must lie between 0 and 1000, got {fps}.')
  paths = Report(*(workdir / name for name in (
      'report.html', 'comparison.png', 'comparison.mp4')))
  frames = pictures.spread(np.shape(recovered)[1], MAX_FRAMES)
  with files.replacing(paths.picture) as path:
    pictures.save_sheet(path, views, names, frames)
  with files.replacing(paths.video) as path:
    codec = movie.save(path, views, names, fps)
  html = page.render(
      views=views, names=names, frames=frames, result=result,
      metrics_rows=metrics_rows, public=public, setup=setup or {},
      video=paths.video, codec=codec)
  with files.replacing(paths.page) as path:
    path.write_text(html, encoding='utf-8')
  return paths


def views_of(
    truth: Array | None, recovered: Array, enhanced: Array | None = None,
    original: Array | None = None,
) -> dict[str, np.ndarray]:
  """Returns what is shown of each clip, by name: uint8 [n, T, H, W, 3].

  Arguments as in `write`; at most MAX_CLIPS clips are shown.
  """
  given = {'truth': truth, 'recovery': recovered, 'enhanced': enhanced,
           'original': original}
  clips = {k: np.asarray(v) for k, v in given.items() if v is not None}
  for name, value in clips.items():
    _check(name, value, clips['recovery'].shape)
  clips = {k: v[:MAX_CLIPS].astype(np.float32) for k, v in clips.items()}
  if enhanced is not None:
    large = degrade.resize(clips['recovery'],
                           *clips['enhanced'].shape[2:4])
    order = [*clips]
    order.insert(order.index('enhanced'), 'bicubic')
    clips['bicubic'] = np.asarray(large)
    clips = {k: clips[k] for k in order}
  views = {k: pictures.to_uint8(v) for k, v in clips.items()}
  if truth is None:
    return views
  gap = pictures.DIFFERENCE_GAIN * np.abs(clips['truth'] - clips['recovery'])
  difference = {pictures.DIFFERENCE: pictures.to_uint8(gap)}
  first = {k: views.pop(k) for k in ('truth', 'recovery')}
  return first | difference | views


def _check(name, value, shape):
  same = shape if name == 'truth' else shape[:2] + value.shape[2:]
  if (len(shape) != 5 or value.shape != same or value.shape[-1] not in (1, 3)
      or not value.size):
    raise UserError(f'{name} has shape {value.shape}, but recovered {shape}; '
                    'clips are [N, T, H, W, C] with 1 or 3 colours.')
  if not np.issubdtype(value.dtype, np.floating):
    raise UserError(f'{name} must be floats in [0, 1], got {value.dtype}.')
  if not np.isfinite(value[:MAX_CLIPS]).all():
    raise UserError(f'{name} holds NaN or infinity.')
