"""The results of the paper (2509.09742) side by side with ours.

Each row is a config of `configs/paper`, run in a workdir of its own, so that
the command goes on where it stopped. All rows see the same clips and seeds.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vidleak_jax import files, recipes, superres
from vidleak_jax.evaluation import metrics
from vidleak_jax.experiments import audit
from vidleak_jax.experiments.leaking import Audit, load_data
from vidleak_jax.experiments.paper import faults
from vidleak_jax.runtime.session import Report

_LONGER = 24  # neighbouring frames; above ten, names sort in another order


class Row(NamedTuple):
  """One result."""
  config: str   # a name in configs/paper
  label: str
  printed: str  # what the paper prints for its videos 1, 2, 4


ROWS = (
    Row('lenet_dlg_published', 'DLG as published',
        '28.4, 29.5, 29.3 (.755, .648, .489)'),
    Row('lenet_dlg', 'DLG from grey, then Gauss-Newton', ''),
    Row('lenet_idlg', 'iDLG', ''),
    Row('lenet_rgap', 'R-GAP, generalised: closed form alone', ''),
    Row('lenet_ours', 'ours: closed form, then polish', ''),
)
ENLARGED = (
    Row('superres_0', 'enhanced, no reference',
        '28.8, 28.9, 28.7 (.214, .231, .296)'),
    Row('superres_1', 'enhanced, 1 reference',
        '28.7, 28.8, 29.0 (.225, .221, .318)'),
    Row('superres_5', 'enhanced, 5 references',
        '28.7, 28.8, 29.0 (.226, .220, .318)'),
)
FROZEN = (
    Row('frozen_classifier1', 'Classifier 1',
        'DLG, iDLG exact; R-GAP up to a factor'),
    Row('frozen_batch', 'Classifier 1, one gradient of all clips', ''),
    Row('frozen_classifier2', 'Classifier 2, dropout active',
        'DLG, iDLG fail (loss 31 269, 19 458); R-GAP up to a factor'),
    Row('frozen_classifier3', 'Classifier 3, dropout active', ''),
    Row('frozen_matrix', 'feature matrix', 'stalls at loss 0.1126'),
)
_PRINTED_ENLARGED = '28.4, 28.5, 28.6 (.203, .197, .288)'
_HEAD = ('| | the paper prints | its PSNR on this | PSNR dB | worst frame '
         '| SSIM | s a frame |\n|---|---|---|---|---|---|---|')


def write(base: Audit, folder: Path, document: Path, *,
          log_fn: Callable[[str], None] = lambda text: None,
          progress: Report | None = None) -> None:
  """Runs every row and writes the document.

  Args:
    base: an audit of `recipes/paper`; its `data`, `seed`, `backend` and
      `victim.weights_file` hold for all rows.
    folder: holds a workdir for each row.
    document: the Markdown file.
    log_fn: told of each row before it runs.
    progress: hears how far a row has come, see `session.Report`.

  Raises:
    UserError: as `audit.run`.
  """
  runs = {}
  for row in ROWS + FROZEN + ENLARGED:
    log_fn(f'{row.config}: {row.label}')
    result = audit.run(_audit(row.config, base), folder / row.config,
                       progress=progress)
    with np.load(folder / row.config / 'recovered.npz') as saved:
      runs[row.config] = result, dict(saved)
  sample = load_data(base)
  longer = load_data(base.replace(data=base.data.replace(
      num_frames=_LONGER, frame_stride=1, num_clips=1)))
  text = '\n'.join([
      *_intro(base, sample, runs['lenet_ours'][0]),
      '## Raw frames: LeNet, one gradient a frame', '',
      *_frames(sample, runs), '',
      '## Frozen extractor: the classifier alone shares its gradient', '',
      *_frozen(sample, runs, base.victim.weights_file), '',
      '## Super-resolution, against the originals', '',
      *_enlarged(sample, runs), '',
      '## The six faults, measured', '',
      *(f'{i}. {fault}' for i, fault in enumerate(
          faults.measure(sample, longer), 1)), ''])
  document.parent.mkdir(parents=True, exist_ok=True)
  with files.replacing(document) as partial:
    partial.write_text(text)


def _audit(name: str, base: Audit) -> Audit:
  """A row's audit, on the data and devices that were asked for."""
  row = Audit.from_dict(recipes.load(f'paper/{name}').to_dict())
  victim, given = row.victim, base.victim.weights_file
  if victim.name == 'frozen' and given:
    victim = victim.replace(weights_file=given)
  return row.replace(victim=victim, data=base.data, seed=base.seed,
                     backend=base.backend)


def _command(base: Audit) -> str:
  """The command that writes the document; VIDEOS for a folder of one's own."""
  usual = Audit.from_dict(recipes.load('paper/lenet_ours').to_dict()).data
  asked = {name: value for name, value in base.data.to_dict().items()
           if value != getattr(usual, name)}
  if base.data.dir:
    asked['dir'] = 'VIDEOS'
  return ' '.join(['vidleak paper --workdir=DIR', *(
      f'--config.data.{name}={value}' for name, value in asked.items())])


def _intro(base, sample, ours) -> list[str]:
  clips, frames = sample.batch.clips.shape[:2]
  return [
      '# The paper, side by side', '',
      'Written by', '```', _command(base), '```', '',
      'The paper is "Images in Motion?" (2509.09742). Its videos are not '
      'public: these are '
      f'{clips} clips of {frames} frames ({", ".join(sample.names)}), the '
      'same ones, with the same labels and weights, in every row. "Its PSNR" '
      'is the notebooks\' formula, which wraps (fault 1), applied to ours; '
      'equal bytes score infinity. PSNR and SSIM are correct ones, means over '
      f'frames; a frame has at most {metrics.CEILING:.0f} dB. DLG as '
      'published and iDLG take 2000 L-BFGS steps in one try '
      '(the paper: 300 x 20, up to ten tries). Seconds are the attack\'s, on '
      f'{ours["num_devices"]} x {ours["device_kind"]}; other work on the '
      'machine, and compiling for the first time, makes them longer. The '
      'paper has no row where its column is empty.', '']


def _frames(sample, runs) -> list[str]:
  truth = sample.batch.clips
  count = truth.shape[0] * truth.shape[1]
  ours = runs['lenet_ours'][0]
  return [
      _HEAD,
      *(_line(row.label, row.printed, runs[row.config][1]['clips'], truth,
              runs[row.config][0]['seconds_attack'] / count) for row in ROWS),
      _line('floor: unrelated clip', '', sample.unrelated, truth),
      _line('floor: mean colour', '', _mean_colour(truth), truth), '',
      f'Labels right: {ours["label_accuracy"]:.0%}. '
      f'{_exact(sample, runs)} Both closed forms round '
      'to the 256 levels of video where a recovery is near enough, and polish '
      'nothing then. From the literature, on single images, as context: R-GAP '
      '49.01 dB (CIFAR-10, CNN6), APRIL 23.90 dB (ViT-small at 224).']


def _exact(sample, runs) -> str:
  """How many clips each row recovers to the last of their 8 bits."""
  truth = sample.batch.clips
  counts = {row.label: int(metrics.is_exact(
      runs[row.config][1]['clips'], truth).sum()) for row in ROWS}
  return (f'Exact clips, of {len(truth)}: '
          f'{", ".join(f"{k} {v}" for k, v in counts.items())}.')


def _frozen(sample, runs, weights_file) -> list[str]:
  """Features exactly; frames as far as features alone show them."""
  truth = sample.batch.clips
  floor = metrics.psnr(_mean_colour(truth), truth).mean()
  lines = ['| | the paper | feature, relative error | frames PSNR dB | SSIM '
           '| s a clip |\n|---|---|---|---|---|---|']
  for row in FROZEN:
    result, saved = runs[row.config]
    below = ', below the floor' if result['psnr'] <= floor else ''
    seconds = result['seconds_attack'] / len(saved['clips'])
    sure = ', labels certified' * bool(result.get('labels_certified'))
    lines.append(
        f'| {row.label}{sure} | {row.printed} '
        f'| {result["feature_relative_error"]:.0e} '
        f'| {result["psnr"]:.1f}{below} '
        f'| {_ssim(result["ssim"])} | {seconds:.1f} |')
  source = Path(weights_file).name if weights_file else (
      'what configs/train_extractor.py trains')
  return [*lines, '', f'The ResNet-20 is {source}. Frames are from the '
          'features alone, without a reference frame; the paper does not go '
          'from features to frames. The floor is the truth\'s own mean colour, '
          f'{floor:.1f} dB.']


def _enlarged(sample, runs) -> list[str]:
  truth = sample.originals
  scale = truth.shape[2] // sample.batch.clips.shape[2]
  recovered = runs[ENLARGED[0].config][1]['clips']
  return [
      _HEAD,
      _line('recovered, enlarged (bicubic)', _PRINTED_ENLARGED,
            superres.bicubic(recovered, scale), truth),
      *(_line(row.label, row.printed, runs[row.config][1]['enhanced'], truth)
        for row in ENLARGED),
      _line('floor: unrelated clip', '',
            superres.bicubic(sample.unrelated, scale), truth),
      _line('floor: mean colour', '', _mean_colour(truth), truth)]


def _mean_colour(truth):
  mean = truth.mean(axis=(1, 2, 3), keepdims=True)
  return np.broadcast_to(mean, truth.shape)


def _line(label, printed, clips, truth, seconds=None) -> str:
  psnr, ssim = metrics.psnr(clips, truth), metrics.ssim(clips, truth)
  wrapped = faults.wrapped_psnr(clips, truth)
  cells = (
      label, printed, f'{wrapped:.1f}', f'{psnr.mean():.1f}',
      f'{psnr.min():.1f}', _ssim(ssim.mean()),
      '' if seconds is None else f'{seconds:.1f}')
  return f'| {" | ".join(cells)} |'


def _ssim(value) -> str:
  """Three digits; a dash for frames too small for its window."""
  return '–' if value is None or np.isnan(value) else f'{value:.3f}'
