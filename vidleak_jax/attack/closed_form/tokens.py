"""The clip of a video transformer, from the gradients of its embeddings.

A learned position embedding is added to every token, so its gradient is the
token error delta [N, D]; the patch embedding's kernel gradient is X^T delta
with the patches X [N, P]. Where N <= D one least-squares solve gives X, the
whole clip. APRIL (2112.14087), for video.

Where N > D the same solve gives P x D exact linear constraints: of the N token
directions, D are known for each of the P pixels of a patch.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vidleak_jax.attack.closed_form import dense
from vidleak_jax.types import Array, Leak, Tokens, UserError, Victim

_GREY = 0.5
_PIXEL_STD = 0.25  # of natural clips about grey, what Tikhonov weighs noise by
_CAUTION = 3.0     # measured best: noise in delta itself feigns signal
_ROUNDING = 1e-7   # relative, of float32 gradients; the least noise assumed


class TokenRecovery(NamedTuple):
  """Clips, and how far to trust them."""
  clips: np.ndarray   # [M, 1, T, H, W, C] float64, not clipped to [0, 1]
  labels: np.ndarray  # [M] int32
  spans: list[np.ndarray]  # per message [N, rank], orthonormal: what is known
  report: list[dict]  # one row, the worst over messages
  note: str           # what is lost, for the user; '' when nothing is


def recover_tokens(
    victim: Victim, leak: Leak, *, batch_size: int | None = None
) -> TokenRecovery:
  """Solves X^T delta = dW for the patches X of every message.

  Directions of delta that drown in noise are damped towards grey (Tikhonov,
  lambda = 3 noise / 0.25). The noise is measured, not given: the part of dW
  outside the row space of delta, which is zero for a noiseless gradient.

  Args:
    victim: lists its `tokens`.
    leak: M messages of one clip each.
    batch_size: clips per message, where the attacker knows it.

  Raises:
    UserError: no learned positions, or more than one clip per message.
  """
  if victim.tokens is None:
    raise UserError(
        'This victim has no learned positions over patches, so the closed form '
        'of video transformers does not apply. Choose victim.name=vivit, or '
        'attack.name=ig.')
  tokens = victim.tokens
  dense.dense_input(leak.update, victim.head, batch_size)  # refuses batches
  labels = dense.infer_label(leak.update, victim.head)
  deltas = _leaf(leak.update, tokens.positions)
  deltas = deltas.reshape(len(labels), *deltas.shape[-2:])
  deltas = deltas[:, tokens.num_special:]
  kernels = _leaf(leak.update, (*tokens.embedding, 'kernel'))
  grey = _grey_patches(tokens, deltas.shape[1], kernels.shape[1])
  solved = [_solve(*pair, grey) for pair in zip(deltas, kernels)]
  patches, spans, rows = zip(*solved)
  with jax.enable_x64(True):
    clips = np.asarray(tokens.unpatch(jnp.asarray(np.stack(patches))))
  worst = {key: max(row[key] for row in rows) for key in rows[0]}
  worst['rank'] = min(row['rank'] for row in rows)
  report = [{'layer': '/'.join(tokens.embedding), **worst}]
  return TokenRecovery(
      clips[:, None], labels, list(spans), report,
      _note(worst, *deltas.shape[1:]))


def known_part(
    tokens: Tokens, clips: Array, span: Array
) -> Callable[[Array], Array]:
  """A penalty on what the closed form knows: 0 where a guess agrees with it.

  Where N > D the matching attack adds it, and fills the rest by its gradient
  and priors.

  Args:
    tokens: of the victim.
    clips: [1, T, H, W, C] one message's recovery.
    span: [N, rank] of `TokenRecovery.spans`.

  Returns:
    From clips [1, T, H, W, C] to [], mean squared error per known number.
  """
  span = jnp.asarray(span, jnp.float32)
  known = jnp.asarray(clips, jnp.float32)

  def penalty(guess):
    return jnp.mean((span.T @ tokens.patches(guess - known + _GREY)[0]
                     - span.T @ tokens.patches(jnp.full_like(known, _GREY))[0]
                     ) ** 2)
  return penalty


def _solve(delta, kernel, grey):
  """delta [N, D], kernel [P, D] -> (X [N, P], span [N, rank], report row)."""
  count, width = delta.shape
  left, values, right = np.linalg.svd(delta, full_matrices=False)
  right_side = kernel - grey.T @ delta
  seen = right_side @ right.T           # [P, min(N, D)]
  outside = right_side - seen @ right
  spare = max(width - count, 0) * len(kernel)
  rounding = _ROUNDING * np.sqrt(np.mean(kernel ** 2))
  noise = max(rounding, np.sqrt(np.sum(outside ** 2) / spare) if spare else 0)
  damping = _CAUTION * noise / _PIXEL_STD
  gains = values / (values ** 2 + damping ** 2)
  patches = grey + left @ (gains[:, None] * seen.T)
  trusted = values > noise / _PIXEL_STD
  row = {
      'rank': int(np.sum(trusted)), 'unknowns': count,
      'condition': float(values[0] / max(values[-1], 1e-300)),
      'residual': float(np.linalg.norm(patches.T @ delta - kernel)
                        / np.linalg.norm(kernel)),
      'noise': float(noise / np.sqrt(np.mean(kernel ** 2))),
  }
  return patches, left[:, trusted], row


def _grey_patches(tokens, count, size):
  flat = jax.ShapeDtypeStruct((1, count, size), jnp.float32)
  shape = jax.eval_shape(tokens.unpatch, flat).shape
  return np.asarray(tokens.patches(jnp.full(shape, _GREY))[0], np.float64)


def _leaf(tree, path):
  for name in path:
    tree = tree[name]
  return np.asarray(tree, np.float64)


def _note(row, count, width):
  if count > width:
    return (
        f'{count} tokens of width {width}: N <= D fails, so the clip is known '
        f'exactly in {row["rank"]} of {count} token directions, and grey '
        'in the others; the matching attack has to fill those.')
  if row['rank'] < count:
    return (
        f'{count - row["rank"]} of {count} token directions drown in the '
        f'noise of the gradient ({row["noise"]:.0e} of its size) and stay '
        'grey; a polish by matching may lift them.')
  return ''
