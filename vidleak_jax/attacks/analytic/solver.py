"""What analytic attacks share: rounding to levels, and a polish."""

import dataclasses
import time
from typing import NamedTuple

import numpy as np

from vidleak_jax.attacks.analytic import rounding
from vidleak_jax.attacks.analytic.polish import polished
from vidleak_jax.attacks.base import Attack, Cost, Effort, Outcome, Problem
from vidleak_jax.options import option
from vidleak_jax.types import Recovery, Row

_DISAGREEMENT = 1e-4  # of a layer's equations; rounding causes 2e-5


class Solution(NamedTuple):
  """What linear algebra found."""
  clips: np.ndarray   # [M, 1, T, H, W, C] float64, not clipped to [0, 1]
  labels: np.ndarray  # [M, 1] int32
  rows: list[Row]  # a layer each: rank, unknowns, condition, ...
  note: str           # what is lost, for the user; '' where nothing is


@dataclasses.dataclass(frozen=True)
class Analytic(Attack):
  """Base of attacks by linear algebra: no restarts, no steps on pixels."""
  polish_steps: int = option(3, 'of Gauss-Newton in float64, at the end',
                             low=0, high=1000)
  polish_inner_steps: int = option(200, 'conjugate gradients in each', low=1)
  whole_levels: bool = option(
      True, 'whether what comes near enough to the 256 levels of video is '
      'rounded; False: for clips that were filtered since')

  def solve(self, problem: Problem) -> Solution:
    """Returns what the equations say.

    Raises:
      UserError: where they do not suffice.
    """
    raise NotImplementedError

  def run(self, problem: Problem, effort: Effort) -> Outcome:
    """See `Attack.run`."""
    del effort
    self.check(problem.victim, problem.leak)
    began = time.perf_counter()
    return self.finish(problem, self.solve(problem), began)

  def finish(self, problem: Problem, solution: Solution,
             began: float | None = None) -> Outcome:
    """Returns a solution rounded and polished; `began` is when it started."""
    began = time.perf_counter() if began is None else began
    findings = {'closed_form': solution.rows, 'closed_form_note': solution.note}
    clips, steps = solution.clips, self.polish_steps
    if self.whole_levels and problem.leak.public.eight_bit:
      rounded = rounding.to_levels(clips)
      findings |= {'on_levels': float(np.mean(rounded.on_levels)),
                   'distance_to_levels': float(rounded.moved.max())}
      clips = rounded.clips
      # What lies on levels is right or not: a polish could only fit rounding.
      steps = 0 if rounded.on_levels.all() else steps
    recovery = Recovery(np.clip(clips, 0.0, 1.0).astype(np.float32),
                        solution.labels.astype(np.int32),
                        np.full(len(clips), np.nan))
    cost = Cost(seconds_attack=time.perf_counter() - began)
    return polished(problem, Outcome(recovery, cost, findings), steps,
                    self.polish_inner_steps)


def doubts(rows: list[Row]) -> str:
  """Returns what the layers' equations leave open or contradict, or ''."""
  gaps = [f'{row["layer"]} leaves {row["unknowns"] - row["rank"]} of '
          f'{row["unknowns"]} directions open'
          for row in rows if row['rank'] < row['unknowns']]
  worst = max(rows, key=lambda row: row['residual'])
  if worst['residual'] > _DISAGREEMENT:
    gaps.append(
        f'the equations of {worst["layer"]} disagree by '
        f'{worst["residual"]:.0e} (noise, a defence, or an open layer above)')
  return f'The closed form is not exact: {"; ".join(gaps)}.' * bool(gaps)
