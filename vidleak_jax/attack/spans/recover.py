"""Clips of transformers without learned positions, from spans alone."""

import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vidleak_jax.attack.closed_form import dense
from vidleak_jax.attack.spans import evidence, search
from vidleak_jax.types import Leak, Victim

_SOLVED = 1e-3   # of the gradient; rounding leaves 1e-5 and less
_OUTLIER = 30.0  # times the median token's cost: it sits in another's place
_RETRIES = 4


class SpanRecovery(NamedTuple):
  """Clips, and how far to trust them."""
  clips: np.ndarray   # [M, 1, T, H, W, C] float64, not clipped to [0, 1]
  labels: np.ndarray  # [M] int32
  report: list[dict]  # one row, the worst over messages
  note: str           # what is lost, for the user; '' when nothing is


def recover_spans(
    victim: Victim, leak: Leak, clip_shape: tuple[int, ...]
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

  Raises:
    UserError: no such transformer, more than one clip per message, or no layer
      whose span stands out of the noise.
  """
  dense.dense_input(leak.update, victim.head, 1)
  labels = dense.infer_label(leak.update, victim.head)
  shape = tuple(clip_shape)
  with jax.enable_x64(True):
    params, updates = jax.tree.map(
        lambda leaf: np.asarray(leaf, np.float64), (leak.params, leak.update))
    layout = evidence.layout(victim.logits, params, shape)
    program = search.build(victim.logits, layout, shape)
    check = _checker(victim, params)
    solved = [
        _solve(program, layout, check, jax.tree.map(operator.itemgetter(i),
                                                    updates),
               label, params, shape) for i, label in enumerate(labels)]
  clips, rows = zip(*solved)
  worst = {key: max(row[key] for row in rows) for key in rows[0]}
  worst['rank'] = min(row['rank'] for row in rows)
  block = next(iter(layout.ranks))[0][0]
  return SpanRecovery(np.stack(clips)[:, None], labels,
                      [{'layer': block, **worst}], _note(worst))


def _checker(victim, params):
  """How far a clip's gradient is from an update, relative to that."""
  @jax.jit
  def missed(clip, label, update):
    found = jax.grad(victim.loss)(params, clip[None], label[None])
    return (optax.tree.norm(jax.tree.map(jnp.subtract, found, update))
            / optax.tree.norm(update))
  return missed


def _solve(program, layout, missed, update, label, params, shape):
  """(clip, report row) of one message.

  Every search but the first is for those that end in a wrong place: from grey
  again, on another way, then from the best with its outliers moved elsewhere.
  """
  count = len(layout.tiling.order)
  random = np.random.default_rng(0)
  best = None
  for attempt in range(2 + _RETRIES):
    if attempt < 2:
      known = evidence.gather(layout, params, update, shape, attempt == 0)
      start = np.zeros((count, len(known.basis)))
    else:
      _, found, known = best
      start, wrong = np.array(found.c), np.flatnonzero(_outliers(found))
      if not wrong.size:
        break
      start[wrong] = start[random.permutation(count)[:wrong.size]]
    found = search.descend(program, known, start)
    error = float(missed(program.clip(found.c, known), label, update))
    if best is None or error < best[0]:
      best = error, found, known
    if best[0] < _SOLVED:
      break
  error, found, known = best
  row = {'rank': len(known.basis), 'unknowns': count, 'residual': error,
         'misplaced': int(_outliers(found).sum())}
  return np.asarray(program.clip(found.c, known)), row


def _outliers(found):
  return found.of_tokens > _OUTLIER * np.median(found.of_tokens)


def _note(row):
  if row['residual'] < _SOLVED:
    return ''
  return (f'Not exact: the gradient of what was found differs by '
          f'{row["residual"]:.0e} of the leak. {row["rank"]} of '
          f'{row["unknowns"]} token directions stand out of its noise; '
          f'{row["misplaced"]} tokens may be misplaced.')
