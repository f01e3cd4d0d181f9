"""Clips of transformers without learned positions, from spans alone."""

import dataclasses
import functools
import operator
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vidleak_jax import files
from vidleak_jax.attacks.analytic import dense
from vidleak_jax.attacks.analytic.solver import Analytic, Solution
from vidleak_jax.attacks.analytic.subspace import (
    constraints,
    misplaced,
    search,
    whole,
)
from vidleak_jax.attacks.base import Problem, needs_head, needs_one_clip
from vidleak_jax.options import option
from vidleak_jax.runtime import backend
from vidleak_jax.types import Array, Leak, Params, UserError, Victim
from vidleak_jax.victims.introspection import tokens

_SOLVED = 1e-3   # of the gradient: no other start would come nearer
_OUTLIER = 30.0  # times the median token's cost: it sits in another's place
_RETRIES = 4
_UNMATCHED = -1  # the stage before the whole gradient is matched
_EXACT = 3e-5    # of the gradient; rounding leaves 1e-5 and less
# (cap, slack) of `evidence.sharpened`, one search after the other.
_SHARPER = (10.0, 1e-12), (100.0, 1e-13), (1000.0, 1e-14)


@dataclasses.dataclass(frozen=True)
class Subspace(Analytic):
  """A transformer's clip from the spans of what its first layers saw.

  DAGER (2405.15586) for video: no learned positions and no label are needed.
  """
  name: ClassVar[str] = 'subspace'
  cost: ClassVar[int] = 40
  polish_steps: int = option(0, 'of Gauss-Newton in float64; minutes', low=0,
                             high=1000)
  match_steps: int = option(
      40, 'of Gauss-Newton on the whole gradient, where the clip is not exact',
      low=0, high=10**6)
  sharpen_steps: int = option(
      0, 'slow steps, where the clip is not exact, that weigh the directions '
      'of the gradient by how well they show', low=0, high=10**6)

  def requires(self, victim: Victim, leak: Leak) -> list[str]:
    """See `Attack.requires`."""
    reasons = needs_one_clip(leak) + needs_head(victim)
    if victim.tokens is not None:
      reasons.append('learned positions: use transformer')
    if victim.logits is None:
      reasons.append('it needs the logits, and only a loss is known')
    if reasons:
      return reasons
    try:
      tokens.find(victim.graph)
    except UserError:
      reasons.append('it needs a video transformer, whose first dense layer '
                     'sees every pixel once, as patches')
    return reasons

  def solve(self, problem: Problem) -> Solution:
    """See `Analytic.solve`."""
    count = problem.leak.num_updates
    recovery = recover_spans(
        problem.victim, problem.leak, problem.leak.public.clip_shape,
        match_steps=self.match_steps, sharpen_steps=self.sharpen_steps,
        folder=problem.session.folder,
        report=lambda done, **values: problem.session.tell(
            'subspace attack', done, count, **values))
    return Solution(recovery.clips, recovery.labels[:, None], recovery.report,
                    recovery.note)


class SpanRecovery(NamedTuple):
  """Clips, and how far to trust them."""
  clips: np.ndarray   # [M, 1, T, H, W, C] float64, not clipped to [0, 1]
  labels: np.ndarray  # [M] int32
  report: list[dict]  # one row, the worst over messages
  note: str           # what is lost, for the user; '' when nothing is


def recover_spans(
    victim: Victim, leak: Leak, clip_shape: tuple[int, ...], *,
    match_steps: int = 0, sharpen_steps: int = 0, folder: Path | None = None,
    report: Callable[..., None] = lambda done, **values: None,
) -> SpanRecovery:
  """Searches the clip whose tokens lie where the gradient says, exactly.

  Every dense layer's kernel gradient gives the span of the layer's inputs
  (DAGER, 2405.15586), that of the patch embedding the span of all patches, and
  shared positions and biases give sums of the token errors: `evidence`. The
  first block's layers suffice. Nothing of the clip and no label is needed; the
  search starts from grey.

  Args:
    victim: a transformer over patches, its tokens fewer than its width.
    leak: M messages of one clip each.
    clip_shape: (T, H, W, C).
    match_steps: at most that many of Gauss-Newton on the whole gradient, where
      the clip found is not exact: `whole`.
    sharpen_steps: that many more where the clip found is not exact, with all
      directions weighed by how well they show: slow, and worth decibels.
    folder: where each message's state is kept, to go on after an interruption.
    report: told after each step how many messages are done, and as a keyword
      what the last search contradicts, or how far its clip's gradient is off.

  Raises:
    UserError: no such transformer, more than one clip per message, no layer
      whose span stands out of the noise, or fewer than no steps.
  """
  if sharpen_steps < 0:
    raise UserError(f'attack.closed_form.sharpen_steps is {sharpen_steps}; '
                    'it can be 0 or more.')
  dense.dense_input(leak.update, victim.head, 1)
  labels = dense.infer_label(leak.update, victim.head)
  shape = tuple(clip_shape)
  with backend.float64():
    params, updates = jax.tree.map(
        lambda leaf: np.asarray(leaf, np.float64), (leak.params, leak.update))
    layout = constraints.layout(victim, params, shape)
    program = search.build(victim.logits, layout, shape)
    check = _checker(victim, params)
    matching = whole.build(victim, program)
    fill = misplaced.build(program, layout)
    solved = []
    for i, label in enumerate(labels):
      update = jax.tree.map(operator.itemgetter(i), updates)
      work = _Work(
          program, layout, params, update, shape,
          functools.partial(check, label=label, update=update), label,
          matching, fill, match_steps, sharpen_steps,
          folder and folder / f'spans_{i}.npz',
          lambda cost, i=i: report(i, contradicted=cost))
      solved.append(_solve(work))
      report(i + 1, missed=solved[-1][1]['residual'])
  clips, rows = zip(*solved)
  worst = {key: max(row[key] for row in rows) for key in rows[0]}
  worst['rank'] = min(row['rank'] for row in rows)
  return SpanRecovery(np.stack(clips)[:, None], labels,
                      [{'layer': layout.block, **worst}], _note(worst))


def _checker(victim, params):
  """How far a clip's gradient is from an update, relative to that."""
  @jax.jit
  def missed(clip, label, update):
    gradient = jax.grad(victim.loss)(params, clip[None], label[None])
    return (optax.tree.norm(jax.tree.map(jnp.subtract, gradient, update))
            / optax.tree.norm(update))
  return missed


class _Work(NamedTuple):
  """One message, and what searches need."""
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


def _solve(work):
  """(clip, report row) of one message."""
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
    if best.error < _EXACT or not left:
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
  while best.error > _EXACT and stage < len(_SHARPER) and steps:
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


def _note(row):
  if row['residual'] < _EXACT:
    return ''
  return (f'Not exact: the gradient of what was found differs by '
          f'{row["residual"]:.0e} of the leak. {row["rank"]} of '
          f'{row["unknowns"]} token directions stand out of its noise; '
          f'{row["misplaced"]} tokens may be misplaced. More '
          'attack.closed_form.sharpen_steps may come nearer, slowly.')
