"""The clip of one update: searches, then the whole gradient, then sharper ones.

What was reached is written after each, so that the next run goes on from there.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vidleak_jax import files
from vidleak_jax.attacks.analytic.subspace import (
    constraints,
    misplaced,
    search,
    whole,
)
from vidleak_jax.types import Array, Params, Row

EXACT = 3e-5     # of the gradient; rounding leaves 1e-5 and less
_SOLVED = 1e-3   # of the gradient: no other start would come nearer
_OUTLIER = 30.0  # times the median token's cost: it sits in another's place
_RETRIES = 4
_UNMATCHED = -1  # the stage before the whole gradient is matched
# (cap, slack) of `evidence.sharpened`, one search after the other.
_SHARPER = (10.0, 1e-12), (100.0, 1e-13), (1000.0, 1e-14)


class Work(NamedTuple):
  """One update, and what searches need."""
  program: search.Search
  layout: constraints.Layout
  params: Params
  update: Params
  shape: tuple[int, ...]
  missed: Callable[[Array], Array]  # by a clip's gradient, of the update
  label: int
  matching: whole.Matching
  fill: misplaced.Fill
  match_steps: int
  sharpen_steps: int
  file: Path | None
  report: Callable[[float], None]  # of a cost

  def evidence(self, smooth):
    return constraints.gather(self.layout, self.params, self.update, self.shape,
                           smooth)

  def of_tokens(self, best):
    known = self.evidence(best.smooth)
    return np.asarray(self.program.of_tokens(best.c, known))


class _Best(NamedTuple):
  """The clip that misses the least so far."""
  c: np.ndarray
  smooth: bool   # the basis that c is of
  error: float   # of the gradient


def solve(work: Work) -> tuple[np.ndarray, Row]:
  """Returns (clip [T, H, W, C], report row) of one update."""
  if work.file and work.file.exists():
    best, stage, state = _load(work.file)
  else:
    best, stage = _search(work), _UNMATCHED
    state = search.unbegun(best.c)
    _save(work.file, best, stage, state)
  if stage == _UNMATCHED:
    best, stage = _match(work, best), 0
    state = search.unbegun(best.c)
    _save(work.file, best, stage, state)
  best = _sharpen(work, best, stage, state)
  known = work.evidence(best.smooth)
  row = {'rank': len(known.basis), 'residual': best.error,
         'unknowns': len(work.layout.tiling.order),
         'misplaced': int(_outliers(work.of_tokens(best)).sum())}
  return np.asarray(work.program.clip(best.c, known)), row


def _search(work) -> _Best:
  """The best of some searches.

  Every one but the first is for those that end in a wrong place: from grey
  again, on another way, then from the best with its outliers moved elsewhere.
  With spans of all blocks the first way is slow rather than lost.
  """
  count = len(work.layout.tiling.order)
  random = np.random.default_rng(0)
  best = None
  for attempt in range(1 if work.layout.is_deep else 2 + _RETRIES):
    smooth = best.smooth if attempt > 1 else attempt == 0
    known = work.evidence(smooth)
    start = np.zeros((count, len(known.basis)))
    if attempt > 1:
      start = np.array(best.c)
      wrong = np.flatnonzero(_outliers(work.of_tokens(best)))
      if not wrong.size:
        break
      start[wrong] = start[random.permutation(count)[:wrong.size]]
    best = _better(best, work, known, smooth, search.descend(
        work.program, known, search.begin(work.program, known, start),
        report=lambda state: work.report(state.cost)).c)
    if best.error < _SOLVED:
      break
  return best


def _match(work, best) -> _Best:
  """After searches, on the whole gradient, ever fainter directions of it.

  After each share misplaced tokens are filled anew, if that meets it better.
  """
  known, c, left = work.evidence(best.smooth), best.c, work.match_steps
  for share in whole.SHARES:
    if best.error < EXACT or not left:
      break
    c, cost, left = _descended(work, known, c, share, left)
    best = _better(best, work, known, best.smooth, c)
    filled = work.fill(c, known) if left else None
    if filled is not None:
      other, new, left = _descended(work, known, filled, share, left)
      best = _better(best, work, known, best.smooth, other)
      c = other if new < cost else c
  return best


def _descended(work, known, c, share, left):
  """(c, its cost, steps left) after a descent at one share."""
  goal, costs = whole.target(
      work.update, work.label, len(work.layout.tiling.order), share), []

  def report(cost):
    costs.append(cost)
    work.report(cost)

  c = whole.descend(work.matching, known, goal, c, left, report,
                    fast=share >= whole.FAST)
  return c, float(work.matching.cost(c, known, goal)), left - len(costs)


def _sharpen(work, best, stage, state) -> _Best:
  """After searches, from `stage` on, that weigh what rounding hides."""
  known = work.evidence(best.smooth)
  steps = -(-work.sharpen_steps // len(_SHARPER))
  while best.error > EXACT and stage < len(_SHARPER) and steps:
    sharp = constraints.sharpened(known, work.layout, work.update,
                               *_SHARPER[stage])
    if not state.step:
      state = search.begin(work.program, sharp, state.c)

    def report(state, best=best, stage=stage):
      work.report(state.cost)
      _save(work.file, best, stage, state)

    state = search.descend(work.program, sharp, state, steps, report)
    best = _better(best, work, known, best.smooth, state.c)
    stage, state = stage + 1, search.unbegun(state.c)
    _save(work.file, best, stage, state)
  return best


def _better(best, work, known, smooth, c):
  error = float(work.missed(work.program.clip(c, known)))
  if best is not None and best.error <= error:
    return best
  return _Best(np.asarray(c), smooth, error)


def _save(file, best, stage, state):
  if file is not None:
    files.write_arrays(file, **best._asdict(), stage=stage, **{
        f'state_{name}': value for name, value in state._asdict().items()})


def _load(file):
  """(best, stage, state), as they were saved."""
  with np.load(file) as saved:
    best = _Best(saved['c'], bool(saved['smooth']), float(saved['error']))
    c, *numbers = (saved[f'state_{name}'] for name in search.State._fields)
    state = search.State(c, *(number.item() for number in numbers))
    return best, int(saved['stage']), state


def _outliers(of_tokens):
  return of_tokens > _OUTLIER * np.median(of_tokens)
