"""Where an audit's answers meet the truth, if it is at hand: the judge."""

from typing import Any

from vidleak_jax import data
from vidleak_jax.attacks import Outcome
from vidleak_jax.evaluation import scores
from vidleak_jax.evaluation.report.settings import MARGIN
from vidleak_jax.types import Leak, Row, Victim

_FLOORS = 'psnr_unrelated', 'psnr_mean_frame', 'psnr_reference'


def judge(sample: data.Sample | None, outcome: Outcome, leak: Leak,
          victim: Victim) -> Row:
  """Returns `psnr`, `ssim`, `floor` and `num_exact`; None each without truth.

  Nothing of this may return to an attack.
  """
  if sample is None:
    return {'psnr': None, 'ssim': None, 'floor': None, 'num_exact': None}
  order = scores.alignment(sample, outcome.recovery, leak, victim)
  recovery, _ = scores.in_order(order, outcome.recovery, None)
  return of(scores.score(sample, recovery, leak, victim))


def of(scored: Row) -> Row:
  """Returns the same of scores, or of a `result.json`."""
  floors = [scored[name] for name in _FLOORS if scored.get(name) is not None]
  return {'psnr': scored.get('psnr'), 'ssim': scored.get('ssim'),
          'floor': max(floors) if floors else None,
          'num_exact': scored.get('num_exact')}


def is_above_floor(row: Any) -> bool:
  """Whether an answer shows more than one that needs no gradient."""
  return row['psnr'] is not None and row['psnr'] > row['floor'] + MARGIN
