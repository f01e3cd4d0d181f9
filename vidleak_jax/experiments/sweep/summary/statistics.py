"""Means over seeds and clips, and how sure they are."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from vidleak_jax.types import Row

FLOORS = ('psnr_unrelated', 'psnr_mean_frame', 'psnr_reference')
ABOVE = 'above_floor'  # dB of a clip's PSNR above the best of its floors
RESAMPLES = 2000
LEVEL = 0.95


class Estimate(NamedTuple):
  """A mean with its bootstrap confidence interval."""
  mean: float
  low: float
  high: float
  count: int  # type: ignore[assignment]  # of the values; a tuple's is hidden


class Setting(NamedTuple):
  """The trials that differ in nothing but what is averaged over."""
  fields: Row
  rows: list[Row]


def settings(rows: Sequence[Row], fields: Sequence[str],
             over: Sequence[str]) -> list[Setting]:
  """Done trials by the values of `fields`, without those averaged over."""
  found: dict[str, Setting] = {}
  for row in rows:
    if row['status'] == 'done':
      own = {name: row.get(name) for name in fields if name not in over}
      found.setdefault(repr(own), Setting(own, [])).rows.append(row)
  ranks = {name: order([each.fields[name] for each in found.values()])
           for name in fields if name not in over}
  return sorted(found.values(), key=lambda each: [
      ranks[name].index(value) for name, value in each.fields.items()])


def values(row: Row, metric: str) -> np.ndarray | None:
  """[N] of a trial's clips; [1] where a metric is of the trial as a whole."""
  if metric == ABOVE:
    psnr = values(row, 'psnr')
    floors: list[Any] = [values(row, name) for name in FLOORS if name in row]
    return None if psnr is None else psnr - np.max(floors, axis=0)
  found = row.get(f'{metric}_per_clip', row.get(metric))
  if found is None or None in np.atleast_1d(found):
    return None
  return np.atleast_1d(np.asarray(found, float))


def estimate(rows: Sequence[Row], metric: str,
             seed: int = 0) -> Estimate | None:
  """The mean of a metric, and the interval that holds it with 95 %.

  The bootstrap draws trials with replacement, then the clips of each: clips of
  one trial have a seed in common and count as less than independent ones.

  Returns:
    None where no trial has the metric; no interval (low = high = NaN) where a
    single value is all there is.
  """
  samples = [own for row in rows
             if (own := values(row, metric)) is not None]
  if not samples:
    return None
  if len({len(own) for own in samples}) > 1:
    samples = [own[None].mean(1) for own in samples]
  table = np.stack(samples)
  if table.size == 1:
    return Estimate(float(table.mean()), np.nan, np.nan, 1)
  means = _resampled_means(table, np.random.default_rng(seed))
  low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
  return Estimate(float(table.mean()), float(low), float(high), table.size)


def _resampled_means(table, rng):
  """[RESAMPLES] means of an array [trials, clips]."""
  trials, clips = table.shape
  rows = rng.integers(trials, size=(RESAMPLES, trials, 1))
  columns = rng.integers(clips, size=(RESAMPLES, trials, clips))
  return table[rows, columns].mean(axis=(1, 2))


def metrics(rows: Sequence[Row]) -> list[str]:
  """Those of these trials that are worth a column, the main one first."""
  names = ('psnr', ABOVE, 'ssim', 'exact', 'psnr_enhanced', 'label_accuracy',
           'match_loss', 'seconds_attack')
  return [name for name in names
          if any(row['status'] == 'done' and values(row, name) is not None
                 for row in rows)]


def order(found: Sequence[Any]) -> list[Any]:
  """The different values: numbers by size, others as they came."""
  unique = list({repr(value): value for value in found}.values())
  return sorted(unique) if all(map(is_number, unique)) else unique


def is_number(value: Any) -> bool:
  """Whether a value can stand on an axis."""
  return isinstance(value, int | float) and not isinstance(value, bool)
