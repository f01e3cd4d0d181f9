"""What super-resolution makes of a workdir's clips, other options side by side.

  python benchmarks/superres.py --workdir=DIR [--noise=0,0.015] \
      [--references=0,1] [--weights=default,perceptual] [--features=FILE]

DIR is of a finished run of `launch/attack.py`; the attack is not run again.
First what it left in the small clips (not of true frames), beside what
`degrade.residual` draws of that strength; then a row of every choice.
"""

import itertools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from vidleak_jax import data, superres
from vidleak_jax.cli import launcher
from vidleak_jax.evaluation import metrics
from vidleak_jax.runtime import parallel
from vidleak_jax.superres import degrade, perceptual
from vidleak_jax.types import UserError

_WORKDIR = flags.DEFINE_string('workdir', None, 'Finished.', required=True)
_NOISE = flags.DEFINE_list('noise', None, 'Told to the network; None: as run.')
_REFERENCES = flags.DEFINE_list('references', None, 'How many; None: as run.')
_WEIGHTS = flags.DEFINE_list('weights', ['default'], 'As superres.weights.')
_FEATURES = flags.DEFINE_string(
    'features', None, 'Weights of a ResNet-20 that judges; None: none does.')
_LAGS = 1, 2, 3


def main() -> None:
  folder = Path(_WORKDIR.value)
  try:
    config = json.loads((folder / 'config.json').read_text())['config']
    with np.load(folder / 'recovered.npz') as archive:
      clips = archive['clips']
  except OSError as error:
    raise UserError(f'{folder} is no finished run of launch/attack.py: '
                    f'{error}.') from error
  options = config['superres']
  noises = [float(n) for n in _NOISE.value or [options['noise']]]
  counts = [int(n) for n in _REFERENCES.value or [options['num_references']]]
  sample = _sample(config, counts[0])
  truth, large = sample.batch.clips, sample.originals
  if np.abs(clips - truth).max() > 1e-3:
    _print('left', **residual(clips, truth))
    level = jnp.full(len(truth), np.std(clips - truth))
    model = degrade.residual(jax.random.key(0), jnp.asarray(truth), level)
    _print('modelled', **residual(np.asarray(model), truth))
  judge = _FEATURES.value and perceptual.features('resnet20', _FEATURES.value)
  scale = large.shape[2] // clips.shape[2]
  _print('bicubic', **scores(superres.bicubic(clips, scale), large, scale,
                             judge))
  for count, noise, weights in itertools.product(
      counts, noises, _WEIGHTS.value):
    held = _sample(config, count).references if count else None
    enhanced = superres.enhance(
        clips, held, scale=scale, noise=noise, devices=parallel.pick_devices(),
        weights=None if weights == 'default' else weights)
    _print(weights, references=count, noise=noise,
           **scores(enhanced, large, scale, judge))


def scores(clips, truth, scale, judge) -> dict:
  """Fidelity, trembling and sharpness of enlarged clips [N, T, H, W, C]."""
  energy, agreement = detail(clips, truth, scale)
  both = [x.reshape(-1, *x.shape[2:]) for x in (clips, truth)]
  row = {'psnr': metrics.psnr(clips, truth).mean(),
         'ssim': metrics.ssim(clips, truth).mean(),
         'flicker': superres.flicker(clips, truth),
         'psnr_per_clip': metrics.psnr(clips, truth).mean(1).tolist(),
         'detail': energy, 'detail_correlation': agreement,
         'edges': edges(*both)}
  if judge:
    row['features'] = np.mean(
        [_feature_errors(judge, *pair) for pair in zip(*both)], 0).tolist()
  return row


def detail(clips, truth, scale) -> tuple[float, float]:
  """Energy of what a small frame cannot hold, to twice its finest pattern.

  As a share of the truth's, geometric mean over frames; and its correlation.
  """
  a, b = (_spectrum(x) for x in (clips, truth))
  steps = np.fft.fftfreq(a.shape[-2]), np.fft.fftfreq(a.shape[-1])
  radius = np.hypot(steps[0][:, None], steps[1])
  band = (radius > 0.5 / scale) & (radius < 1 / scale)
  energy = [(np.abs(x[:, band]) ** 2).sum(-1) for x in (a, b)]
  common = (a * b.conj()).real[:, band].sum(-1)
  return (float(np.exp(np.mean(np.log(energy[0] / energy[1])))),
          float(np.mean(common / np.sqrt(energy[0] * energy[1]))))


def _spectrum(clips):
  grey = clips.reshape(-1, *clips.shape[2:]).mean(-1)
  grey = grey - grey.mean((1, 2), keepdims=True)
  window = np.hanning(grey.shape[1])[:, None] * np.hanning(grey.shape[2])
  return np.fft.fft2(grey * window)


def edges(frames, truth) -> float:
  """Gap between the sorted lengths of gradients, relative to their mean."""
  def lengths(x):
    grey = x.mean(-1)
    length = np.hypot(np.diff(grey, axis=1)[:, :, 1:],
                      np.diff(grey, axis=2)[:, 1:])
    return np.sort(length.reshape(len(grey), -1), 1)
  a, b = lengths(frames), lengths(truth)
  return float(np.abs(a - b).mean() / b.mean())


def _feature_errors(judge, frame, truth):
  pairs = zip(judge(frame[None]), judge(truth[None]))
  return [float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))
          for (_, a), (_, b) in pairs]


def residual(clips, truth) -> dict:
  """What an attack left, as far as `degrade.residual` models it.

  Medians over clips of: the standard deviation; the share of the frame that
  was replaced by its blur; of the rest, correlations with the errors `_LAGS`
  pixels and frames away, and between colours.
  """
  rows = []
  for clip, true in zip(clips, truth):
    lost = degrade.blur(degrade.blur(true, 1, 1.0), 2, 1.0) - true
    error = clip - true
    share = float(np.vdot(lost, error) / np.vdot(lost, lost))
    rest = error - share * lost
    rows.append({
        'psnr': metrics.psnr(clip, true).mean(), 'std': np.std(error),
        'blurred': share, 'rest': np.std(rest),
        'space': [_correlation(rest, 2, lag) for lag in _LAGS],
        'time': [_correlation(rest, 0, lag) for lag in _LAGS],
        'colour': np.corrcoef(rest.reshape(-1, 3).T)[0, 1]})
  return {key: np.median([row[key] for row in rows], 0).tolist()
          for key in rows[0]}


def _correlation(error, axis, lag):
  size = error.shape[axis]
  pair = (np.take(error, range(first, size - lag + first), axis)
          for first in (0, lag))
  return np.corrcoef(*(x.ravel() for x in pair))[0, 1]


def _sample(config, num_references):
  options = dict(config['data'])
  return data.load(options.pop('name'), seed=config['seed'],
                   num_classes=config['victim']['num_classes'],
                   num_references=num_references, **options)


def _print(name, **row):
  print(json.dumps({'name': name, **row}, default=float), flush=True)


if __name__ == '__main__':
  launcher.run(main)
