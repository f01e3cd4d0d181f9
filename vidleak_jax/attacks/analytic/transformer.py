"""The clip of a video transformer, from the gradients of its embeddings.

A learned position embedding is added to every token, so its gradient is the
token error delta [N, D]; the patch embedding's kernel gradient is X^T delta
with the patches X [N, P]. Where N <= D one least-squares solve gives X, the
whole clip. APRIL (2112.14087), for video.

Where N > D the same solve gives P x D exact linear constraints: of the N token
directions, D are known for each of the P pixels of a patch.
"""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vidleak_jax.attacks.analytic import dense, rounding
from vidleak_jax.attacks.analytic.solver import Analytic, Solution
from vidleak_jax.attacks.base import Problem, needs_one_clip
from vidleak_jax.options import option
from vidleak_jax.runtime import backend
from vidleak_jax.types import Leak, UserError, Victim

_GREY = 0.5
_PIXEL_STD = 0.25  # of natural clips about grey
_ROUNDING = 1.5e-7  # of float32 matrix products, relative; the least noise
_DAMPINGS = 10.0 ** np.linspace(-8, 0, 81)  # tried, of the largest value
_SLACK = 2.0       # of noise, in what whole levels may leave unexplained
_FEW = 0.5         # of the directions; below, little of a clip is to be seen


@dataclasses.dataclass(frozen=True)
class TransformerEmbedding(Analytic):
  """The patches of a video transformer, from its two embeddings (APRIL)."""
  name: ClassVar[str] = 'transformer'
  cost: ClassVar[int] = 10
  polish_steps: int = option(0, 'of Gauss-Newton in float64; minutes', low=0,
                             high=1000)

  def requires(self, victim: Victim, leak: Leak) -> list[str]:
    """See `Attack.requires`."""
    reasons = needs_one_clip(leak)
    if victim.tokens is None:
      reasons.append('it needs a transformer with learned positions over '
                     'patches, such as vivit')
    return reasons

  def solve(self, problem: Problem) -> Solution:
    """See `Analytic.solve`."""
    recovery = recover_tokens(problem.victim, problem.leak, batch_size=1,
                              whole_levels=self.whole_levels)
    return Solution(recovery.clips, recovery.labels[:, None], recovery.report,
                    recovery.note)


class TokenRecovery(NamedTuple):
  """Clips, and how far to trust them."""
  clips: np.ndarray   # [M, 1, T, H, W, C] float64, not clipped to [0, 1]
  labels: np.ndarray  # [M] int32
  spans: list[np.ndarray]  # per message [N, rank], orthonormal: what is known
  report: list[dict]  # one row, the worst over messages
  note: str           # what is lost, for the user; '' when nothing is


def recover_tokens(
    victim: Victim, leak: Leak, *, batch_size: int | None = None,
    whole_levels: bool = True,
) -> TokenRecovery:
  """Solves X^T delta = dW for the patches X of every message.

  Directions of delta that drown in noise are damped towards grey (Tikhonov), by
  as much as generalised cross-validation says (Golub, Heath, Wahba 1979): it
  needs no noise level, and sees the noise in delta itself too. A clip of 256
  levels comes out exactly where its errors allow (`levels.decode`), and only if
  its levels leave no more of the gradient unexplained than noise does.

  Args:
    victim: lists its `tokens`.
    leak: M messages of one clip each.
    batch_size: clips per message, where the attacker knows it.
    whole_levels: whether the clips are known to have 256 levels.

  Raises:
    UserError: no learned positions, more than one clip per message, or a
      gradient that is all zero.
  """
  if victim.tokens is None:
    raise UserError(
        'This victim has no learned positions over patches, so the closed form '
        'of video transformers does not apply. Choose victim.name=vivit, or '
        'attack.name=ig.')
  tokens = victim.tokens
  head = dense.dense_input(leak.update, victim.head, batch_size)
  labels = dense.infer_label(leak.update, victim.head)
  deltas = _leaf(leak.update, tokens.positions)
  deltas = deltas.reshape(len(labels), *deltas.shape[-2:])
  deltas = deltas[:, tokens.num_special:]
  kernels = _leaf(leak.update, (*tokens.embedding, 'kernel'))
  for path, leaf in ((tokens.positions, deltas), (tokens.embedding, kernels)):
    _check_alive(path, leaf)
  grey = _grey_patches(tokens, deltas.shape[1], kernels.shape[1])
  scale = _levels(tokens, grey.shape) if whole_levels else None
  solved = [_solve(*pair, grey, noise, scale)
            for *pair, noise in zip(deltas, kernels, head.residual)]
  patches, spans, rows = zip(*solved)
  with backend.float64():
    clips = np.asarray(tokens.unpatch(jnp.asarray(np.stack(patches))))
  worst = {key: max(row[key] for row in rows) for key in rows[0]}
  for key in ('rank', 'on_levels'):
    worst[key] = min(row[key] for row in rows)
  report = [{'layer': '/'.join(tokens.embedding), **worst}]
  return TokenRecovery(
      clips[:, None], labels, list(spans), report,
      _note(worst, *deltas.shape[1:]))


def _check_alive(path, leaf):
  """Refuses messages [M, ...] that are all zero at a leaf."""
  dead = ~np.any(leaf, axis=tuple(range(1, leaf.ndim)))
  if np.any(dead):
    raise UserError(
        f'The gradient of {"/".join(path)} is zero in {np.sum(dead)} of '
        f'{len(dead)} messages: a defence zeroed it (heavy pruning does), so '
        'the closed form has nothing to solve. Use attack.name=ig instead.')


def _solve(delta, kernel, grey, relative_noise, scale):
  """delta [N, D], kernel [P, D] -> (X [N, P], span [N, rank], report row)."""
  count, width = delta.shape
  right_side = kernel - grey.T @ delta
  spare = max(width - count, 0) * len(kernel)
  size = np.sqrt(np.mean(kernel ** 2))
  noise = size * max(_ROUNDING, relative_noise)
  if spare:
    known = np.linalg.qr(delta.T)[0]
    outside = np.sum(right_side ** 2) - np.sum((right_side @ known) ** 2)
    noise = max(size * _ROUNDING, np.sqrt(max(outside, 0) / spare))
  weights = _weights(delta, size * _ROUNDING, noise)
  left, values, right = np.linalg.svd(delta * weights, full_matrices=False)
  right_side = right_side * weights
  seen = right_side @ right.T           # [P, min(N, D)]
  damping = noise / _PIXEL_STD
  if spare:
    damping = max(damping, _cross_validated(
        values, np.sum(seen ** 2, 0), np.sum((right_side - seen @ right) ** 2),
        width))
  gains = values / (values ** 2 + damping ** 2)
  patches = grey + left @ (gains[:, None] * seen.T)
  lost = 1 - gains * values
  spread = (gains * noise) ** 2 + (lost * _PIXEL_STD) ** 2
  whole = None
  if scale is not None and count <= width:
    whole = _whole(patches, (left * spread) @ left.T, scale, delta, kernel,
                   noise)
  moved = 0.0
  if whole is not None:
    moved = np.sqrt(np.mean(((whole - patches) / (scale[1] - scale[0])) ** 2))
    patches = whole
  trusted = values > noise / _PIXEL_STD
  row = {
      'rank': int(np.sum(trusted)), 'unknowns': count,
      'condition': float(values[0] / max(values[-1], 1e-300)),
      'residual': float(np.linalg.norm(patches.T @ delta - kernel)
                        / np.linalg.norm(kernel)),
      'noise': float(noise / size), 'zeroed': float(np.mean(delta == 0)),
      'moved_to_levels': float(moved), 'on_levels': whole is not None,
  }
  return patches, left[:, trusted], row


def _weights(delta, rounding, noise):
  """[D] that make the noise of all columns alike.

  Rounding is in proportion to a column of delta; what is beyond is white.
  """
  sizes = np.linalg.norm(delta, axis=0)
  per_row = rounding * sizes / np.sqrt(np.mean(sizes ** 2))
  white = np.sqrt(max(noise ** 2 - rounding ** 2, 0))
  return noise / np.hypot(np.maximum(per_row, 1e-3 * rounding), white)


def _cross_validated(values, energies, outside, width):
  """The damping of least generalised cross-validation.

  values [N] of delta; energies [N] of the right-hand side along them, and
  `outside` of them; width, the number of equations of each pixel.
  """
  tried = _DAMPINGS[:, None] * values[0]
  kept = values ** 2 / (values ** 2 + tried ** 2)
  missed = np.sum((1 - kept) ** 2 * energies, 1) + outside
  return tried[np.argmin(missed / (width - kept.sum(1)) ** 2), 0]


def _whole(patches, covariance, scale, delta, kernel, noise):
  """The patches on whole levels, or None where they do not show."""
  black, white = scale
  step = (white - black) / rounding.TOP
  decoded = rounding.decode((patches - black) / step,
                            covariance / np.min(np.abs(step)) ** 2)
  if decoded is None:
    return None
  decoded = black + step * decoded
  missed = np.sqrt(np.mean((decoded.T @ delta - kernel) ** 2))
  return decoded if missed < _SLACK * noise else None


def _levels(tokens, shape):
  """(black, white): each [P], as patches hold them."""
  flat = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
  clips = jax.eval_shape(tokens.unpatch, flat).shape
  return tuple(np.asarray(tokens.patches(jnp.full(clips, level))[0, 0],
                          np.float64) for level in (0.0, 1.0))


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
  if row['rank'] == count:
    return ''
  cause = 'in the noise of the gradient'
  if row['zeroed']:
    cause = f'as {row["zeroed"]:.0%} of the gradient is zero'
  few = row['rank'] < _FEW * count
  return (
      f'{count - row["rank"]} of {count} token directions drown {cause} '
      f'(errors of {row["noise"]:.0e} of its size) and stay near grey; '
      + ('what is left is hardly a recovery: compare it with the floors.'
         if few else 'a polish by matching may lift them.'))
