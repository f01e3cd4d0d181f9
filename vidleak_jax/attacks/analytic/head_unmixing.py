"""Separates a batch: every clip's feature and error from the head's gradient.

For a head `logits = h W + c` under mean cross-entropy, with targets y_b,

  dL/dW = (1/B) sum_b h_b (x) e_b,   dL/dc = (1/B) sum_b e_b,
  e_b = softmax(h_b W + c) - y_b.

A factorisation of rank B, [dL/dW; dL/dc] = (1/B) H0^T E0, leaves one B x B
matrix M unknown: [H, 1] = M^-T H0 and E = M E0. The softmax ties the two,

  M E0 + Y = softmax(M^-T L0),   L0 = H0 [W; c],

and the row of ones adds 1^T M = u, u the last column of H0: B K + B equations,
of which B (K - 1) + B are independent, for B^2 unknowns. Levenberg-Marquardt
from many starts solves them; only matrices of B x B and B x K take part,
however many features there are. A residual at the level of float32's rounding
certifies the answer, labels included, as long as equations outnumber unknowns;
labels that the bias does not prove are found on the way, since each accepted
step takes the labels that fit best.

After local training in minibatches clips have weights w_b, and later ones saw a
head that earlier ones had moved (`local_training.Turns`): E = diag(1/w) M E0,
and the logits of M^-T L0 move along. All orders are tried; the residual tells
which one it was.
"""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from vidleak_jax.attacks import label_counts
from vidleak_jax.attacks import labels as label_inference
from vidleak_jax.attacks.analytic import mixing, unmixing_starts
from vidleak_jax.attacks.local_training import Turns
from vidleak_jax.runtime import backend
from vidleak_jax.types import UserError

_CERTIFIED = 1e-5   # residual; float32's rounding leaves 1e-8 to 1e-6
_ROUNDING = 1e-7    # residual of a start that has fully converged
_OUTGROWN = 1e3     # times the median feature: no real one
_TOGETHER = 8       # starts between two looks at the result
_AGREEING = 3       # starts that end at the same residual end the search,
_EXPLAINED = 10.0   # if that is less than so many times the noise
_SPREADS = (1.0, 0.3, 1.0, 3.0)  # of starting features within a class
_SAME = 1e-3        # relative difference of two answers that are one
_FAINT = 1e-7       # singular value, of the largest, that float32 still shows


@dataclasses.dataclass(frozen=True)
class UnmixedHead:
  """What the head's gradient says of each clip of one batch, sorted by label.

  Attributes:
    features: [B, F] float64, the head's input of each clip.
    errors: [B, K] float64, dL_b/dlogits of each clip's own loss; its part in
      the mean loss is `errors` times the sum of its `shares`.
    labels: [B] int32, increasing.
    shares: [N, B] of each clip in the update, step by step
      (`local_training.shares`); its column's sum is 1 / B for one gradient.
    residual: relative misfit of `errors` and the softmax of `features`.
    certified: whether that misfit proves features and labels.
    note: one sentence for the user.
  """
  features: np.ndarray
  errors: np.ndarray
  labels: np.ndarray
  shares: np.ndarray
  residual: float
  certified: bool
  note: str


def unmix_head(
    kernel: np.ndarray,
    bias: np.ndarray | None,
    kernel_update: np.ndarray,
    bias_update: np.ndarray | None,
    batch_size: int,
    *,
    labels: Sequence[int] | None = None,
    turns: Turns | None = None,
    label_smoothing: float = 0.0,
    num_starts: int = 64,
    max_steps: int = 80,
    seed: int = 0,
) -> UnmixedHead:
  """Solves for every clip's feature and error of one batch.

  Args:
    kernel: W, [F, K].
    bias: c, [K], or None.
    kernel_update: dL/dW of the mean loss, [F, K].
    bias_update: dL/dc, [K], or None where the head has no bias.
    batch_size: B.
    labels: [B], where the attacker knows them; otherwise they are inferred.
    turns: what each order of minibatches makes of the clips; None: one
      gradient.
    label_smoothing: s of targets (1 - s) onehot + s / K, in [0, 1).
    num_starts: of the solver, at most; a certified answer ends the search.
    max_steps: of Levenberg-Marquardt, per start.
    seed: of the starts.

  Returns:
    The best fit. Not certified under noise, and where a clip's error is too
    small for float32.

  Raises:
    UserError: B exceeds min(K - 1, F), so that a factorisation of rank B does
      not exist or says nothing; or arguments that `infer_labels` refuses.
  """
  num_features, num_classes = np.shape(kernel)
  if batch_size > min(num_classes - 1, num_features):
    raise UserError(
        f'A batch of {batch_size} clips cannot be separated by a head of '
        f'{num_features} features and {num_classes} classes: its gradient has '
        f'rank {min(num_classes - 1, num_features)} at most. Use smaller '
        'batches, or an attack that does not separate clips, such as ig.')
  if not 0 <= label_smoothing < 1:
    raise UserError(
        f'label_smoothing must be in [0, 1), got {label_smoothing}.')
  update, params = {'kernel': kernel_update}, {'kernel': kernel}
  if bias is not None:
    params['bias'] = bias
  if bias_update is not None:
    update['bias'] = bias_update
  turns = Turns.of_one_gradient(batch_size) if turns is None else turns
  estimate = label_inference.infer_labels(
      update, params, batch_size, largest_weight=float(turns.weights.max()))
  named = ([unmixing_starts.known_labels(labels, batch_size, num_classes)]
           if labels is not None else unmixing_starts.likely_labels(
               estimate, batch_size, num_starts))
  factors = _factorise(kernel, bias, kernel_update, bias_update, batch_size)
  slope = bias_update if bias_update is not None else (
      label_counts.implied_bias_update(
          np.asarray(kernel_update, float), np.asarray(kernel, float),
          np.zeros(num_classes) if bias is None else np.asarray(bias, float),
          batch_size))
  slope = np.asarray(slope, float)
  solution = _search(
      factors, unmixing_starts.in_turns(named, turns, slope), slope,
      labels is not None or estimate.certain, label_smoothing, num_starts,
      max_steps, np.random.default_rng(seed))
  return _answer(factors, solution, num_features)


@dataclasses.dataclass(frozen=True)
class _Factors:
  """A rank-B factorisation of the head's gradient."""
  features: np.ndarray  # H0, [B, F] or [B, F + 1]
  problem: mixing.Mixing
  has_bias: bool
  visible: int          # how many directions exceed rounding
  noise: float          # relative to the gradient


@dataclasses.dataclass(frozen=True)
class _Found:
  """The best start, and whether another one fits as well but differs."""
  mixing: np.ndarray
  labels: np.ndarray
  turns: Turns
  residual: float
  rivals: bool

  def errors(self, problem: mixing.Mixing) -> np.ndarray:
    return mixing.errors_of(problem, self.mixing, self.turns)


def _factorise(kernel, bias, kernel_update, bias_update, batch_size):
  update = np.asarray(kernel_update, np.float64)
  weights = np.asarray(kernel, np.float64)
  offsets = np.zeros(weights.shape[1]) if bias is None else (
      np.asarray(bias, np.float64))
  has_bias = bias_update is not None
  if has_bias:
    update = np.vstack([update, np.asarray(bias_update, np.float64)])
    weights = np.vstack([weights, offsets])
  left, values, right = np.linalg.svd(update, full_matrices=False)
  features = left[:, :batch_size].T
  errors = batch_size * values[:batch_size, None] * right[:batch_size]
  logits = features @ weights
  ones = features[:, -1] if has_bias else np.zeros(batch_size)
  weight = batch_size / np.linalg.norm(ones) if has_bias else 0.0
  shift = np.zeros_like(offsets) if has_bias else offsets
  return _Factors(
      features, mixing.Mixing(errors, logits, shift, ones, np.float64(weight)),
      has_bias, int(np.sum(values[:batch_size] > _FAINT * values[0])),
      # without noise the classes' gradients cancel
      float(np.linalg.norm(update.sum(1)) / np.linalg.norm(update)))


def _search(factors, candidates, slope, fixed, smoothing, num_starts, max_steps,
            rng):
  """Runs starts in groups until one is certain or the best one is common."""
  problem = factors.problem
  ends, tried = [], 0
  while tried < num_starts:
    chosen = [candidates[(tried + i) % len(candidates)]
              for i in range(_TOGETHER)]
    starts = np.stack([
        mixing.start(rng, problem, labels, own.weights, slope,
                     factors.has_bias, first=tried + i < len(candidates),
                     spread=_SPREADS[(tried + i) % len(_SPREADS)])
        for i, (labels, own) in enumerate(chosen)])
    labels, orders = zip(*chosen, strict=True)
    turns = Turns(*map(np.stack, zip(*orders, strict=True)))
    with backend.float64():
      solved = jax.device_get(mixing.solve_many(
          problem, starts, np.stack(labels).astype(np.int32), turns, smoothing,
          max_steps, fixed))
    ends += [_Found(m, y, own, float(r), False)
             for m, y, r, own in zip(*solved, orders, strict=True)
             if np.isfinite(r) and not _saturated(m)]
    tried += _TOGETHER
    if not ends:
      continue
    best = min(ends, key=lambda end: end.residual)
    near = [end for end in ends if end.residual < 1.001 * best.residual]
    explained = best.residual < _EXPLAINED * factors.noise
    if best.residual < _CERTIFIED or (explained and len(near) >= _AGREEING):
      break
  if not ends:
    raise UserError(
        'No start of the un-mixing gave a finite answer. Look for Inf or '
        'entries of extreme size in the head\'s parameters and gradient.')
  exact = [end for end in ends if end.residual < min(
      _CERTIFIED, max(10 * best.residual, _ROUNDING))]
  rivals = any(_differ(best.errors(problem), end.errors(problem))
               for end in exact)
  return dataclasses.replace(best, rivals=rivals)


def _saturated(mixing):
  """Whether one feature outgrew the others until its softmax is 0 or 1.

  Such rows satisfy their equations whatever the direction they grew in.
  """
  sizes = np.linalg.norm(np.linalg.inv(mixing), axis=0)
  return bool(sizes.max() > _OUTGROWN * np.median(sizes))


def _differ(a, b):
  gaps = np.abs(a[:, None] - b[None]).max(-1)
  size = np.abs(a).max(1)
  return bool(np.any(gaps.min(1) > _SAME * size))


def _answer(factors, solution, num_features):
  batch_size, num_classes = factors.problem.errors.shape
  order = np.argsort(solution.labels, kind='stable')
  features = np.linalg.inv(solution.mixing).T @ factors.features
  surplus = (batch_size * (num_classes - 1 - batch_size)
             + batch_size * factors.has_bias)
  certified = False
  if solution.residual >= _CERTIFIED:
    note = (f'Best fit only, residual {solution.residual:.1e}: noise, a '
            'defence, a batch size or scale that is not the client\'s, or no '
            'start found the solution.')
  elif factors.visible < batch_size:
    note = (f'Only {factors.visible} of {batch_size} clips leave a trace that '
            'float32 shows; the others are not determined.')
  elif surplus <= 0:
    note = ('The equations hold, but none is left to verify them: the batch '
            'is as large as the number of classes allows.')
  elif solution.rivals:
    note = 'Two different answers fit to rounding: the batch is ambiguous.'
  else:
    certified = True
    note = (f'{batch_size} clips separated, residual '
            f'{solution.residual:.1e} with {surplus} equations to spare.')
  return UnmixedHead(
      features[order, :num_features],
      solution.errors(factors.problem)[order],
      solution.labels[order].astype(np.int32), solution.turns.shares[:, order],
      solution.residual, certified, note)
