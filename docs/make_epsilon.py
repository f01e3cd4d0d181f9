"""Writes docs/epsilon.png and the table beside it: leak against epsilon.

  python docs/make_epsilon.py

One clip of the test split of `photo_motion`, of 4x16x16, through C3D `tiny`:
minutes on a CPU; it needs matplotlib. The client clips its gradient to norm 1
and adds Gaussian noise, as `LocalDpMod` does, and DP-SGD with a single clip.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax

import vidleak_jax as vl
from vidleak_jax import data
from vidleak_jax.evaluation import bounds
from vidleak_jax.experiments.auditing import limits

PICTURE = Path(__file__).with_name('epsilon.png')
PAGE = Path(__file__).with_name('defenses.md')
SENSITIVITY, DELTA = 1e-4, 1e-5  # of LocalDpMod, as often configured
# Epsilon as LocalDpMod's configuration calls it.
CONFIGURED = 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 5e-4
GUESS = 1e-3  # chance of a right guess without the update
_SECONDS = 60.0  # that one limit may take
_BEGIN, _END = '<!-- epsilon -->', '<!-- end of epsilon -->'


class Point(NamedTuple):
  """What was measured behind one strength of noise."""
  configured: float   # epsilon
  multiplier: float   # noise over the sensitivity
  epsilon: float      # of that multiplier
  chance: float       # of a right reconstruction, at most
  psnr: float         # dB, of `defense_aware`
  floor: float        # dB, without the update
  limit: float        # dB, of unbiased attacks


def measure() -> Iterator[Point]:
  """Yields a point for each configured epsilon."""
  sample = data.load('photo_motion', seed=0, num_clips=1, num_frames=4,
                     frame_stride=2, image_size=16, original_size=16)
  clips, labels = sample.batch
  victim = vl.victims.c3d(clips.shape[1:], 101, preset='tiny')
  weights_key, noise_key, attack_key, probe_key = jax.random.split(
      jax.random.key(0), 4)
  params = victim.init(weights_key)
  for configured in CONFIGURED:
    spec = vl.DefenseSpec.from_dict({'local_dp': {
        'clipping_norm': 1.0, 'sensitivity': SENSITIVITY,
        'epsilon': configured, 'delta': DELTA}})
    leak = vl.observe(victim, params, clips, labels, defense=spec,
                      key=noise_key)
    found = vl.attack(victim, leak, 'defense_aware', key=attack_key)
    scores = vl.evaluate(found, clips, unrelated=sample.unrelated)
    multiplier = limits.mechanism(spec, leak).noise_multiplier
    yield Point(
        configured, multiplier, bounds.gaussian_epsilon(multiplier, DELTA),
        bounds.reconstruction_bound(multiplier, GUESS), scores.psnr[0],
        max(scores.psnr_mean_frame[0], scores.psnr_unrelated[0]),
        limits.cramer_rao(victim, leak, clips, labels, probe_key, _SECONDS))


def draw(points: Sequence[Point]) -> None:
  """Writes the picture."""
  import matplotlib
  matplotlib.use('Agg')
  from matplotlib import pyplot
  figure, axes = pyplot.subplots(figsize=(6.4, 3.6), layout='constrained')
  psnr = [point.psnr for point in points]
  axes.plot([p.epsilon for p in points], psnr, 'o-', label='recovered')
  axes.plot([p.configured for p in points], psnr, 'o:',
            label='the same, at the epsilon that LocalDpMod is given')
  axes.plot([p.epsilon for p in points], [p.limit for p in points], '-',
            label='Cramér–Rao limit')
  axes.axhline(points[0].floor, color='black', linestyle='--', label='floor')
  axes.set(xscale='log', xlabel=f'epsilon (delta {DELTA:g})',
           ylabel='PSNR, dB')
  axes.legend(fontsize='small', ncol=2, loc='lower center',
              bbox_to_anchor=(0.5, 1.0))
  figure.savefig(PICTURE, dpi=110)


def table(points: Sequence[Point]) -> Iterator[str]:
  """Yields the table's lines."""
  yield ('| `epsilon` as configured | true epsilon | noise multiplier '
         '| recovered | Cramér–Rao limit | right guess, at most |')
  yield '|---|---|---|---|---|---|'
  for point in points:
    yield (f'| {point.configured:g} | {point.epsilon:.3g} '
           f'| {point.multiplier:.2g} | {point.psnr:.1f} | {point.limit:.1f} '
           f'| {point.chance:.3g} |')


def main() -> None:
  """Draws the picture and replaces the table in the page."""
  points = list(measure())
  draw(points)
  text = PAGE.read_text()
  before, rest = text.split(_BEGIN)
  after = rest.split(_END)[1]
  lines = '\n'.join(table(points))
  PAGE.write_text(f'{before}{_BEGIN}\n{lines}\n{_END}{after}')


if __name__ == '__main__':
  main()
