"""The head's gradient behind a defence: its input and dL/dlogits.

For one clip the dense head's gradient has rank one, `dW = h e^T`, `db = e`, and
its two factors are tied by the network itself: `e = softmax(W^T h + c) -
onehot`. Weighted least squares, alternating between both, read h to the limit
that the defence's own error sets, and e nearly exactly. Entries that a defence
made intervals bound h from both sides.
"""

from typing import NamedTuple

import numpy as np

from vidleak_jax.attacks.observation import Observed
from vidleak_jax.types import UserError

_SWEEPS = 60
_TINY = 1e-300
_TRUSTED = 4.0   # stds that a scale may differ from 1 and still be 1
_SCALE_STD = 2e-3


class Head(NamedTuple):
  """What the head's gradient says."""
  feature: Observed     # [F], the head's input
  error: np.ndarray     # [K], dL/dlogits of the clip
  label: int
  scale: float          # of the update, over the gradient
  misfit: float         # mean square of the values' residuals over their std


def infer_label(bias: Observed, kernel: Observed) -> int:
  """The class whose logit the gradient raises: the only negative dL/dlogit."""
  if np.ptp(bias.middle) > 0:
    return int(np.argmin(bias.middle))
  # No bias was sent: the label's column is the largest.
  return int(np.argmax(np.sum(np.square(kernel.middle), axis=0)))


def read_head(
    params: dict[str, np.ndarray], kernel: Observed, bias: Observed,
    label: int | None = None, *, scale: float | None = 1.0,
    guess: np.ndarray | None = None,
) -> Head:
  """Solves for the factors of the head's gradient.

  Args:
    params: of the head, 'kernel' [F, K] and 'bias' [K].
    kernel: observed gradient of the kernel.
    bias: observed gradient of the bias.
    label: of the clip; None to infer it.
    scale: of the update over the gradient; None to find it, by the softmax.
    guess: [F] features that fill in where the kernel says little.

  Raises:
    UserError: the update says nothing about the head.
  """
  solver = _Solver(params, kernel, bias, guess)
  if not solver.known.any():
    raise UserError(
        'No entry of the head\'s gradient is left by the defence: the defended '
        'attack starts there. Choose attack.name=ig.')
  label = infer_label(bias, kernel) if label is None else label
  error, fitted = solver.solve(label, scale)
  feature = solver.feature(error, fitted)
  if scale is None and abs(fitted - 1) < _TRUSTED * _SCALE_STD:
    error, fitted = solver.solve(label, 1.0)
    feature = solver.feature(error, fitted)
  return Head(feature, error, label, fitted,
              solver.misfit(feature.middle, error, fitted))


class _Solver:
  """Alternating least squares on the entries that are values."""

  def __init__(self, params, kernel, bias, guess):
    self.weights = np.asarray(params['kernel'], np.float64)
    self.offset = np.asarray(params['bias'], np.float64)
    self.kernel, self.bias = kernel, bias
    self.known, self.sure = kernel.is_value, bias.is_value
    self.weight = self.known / kernel.std ** 2
    self.values = np.where(self.known, kernel.low, 0.0)
    self.guess = np.zeros(len(self.weights)) if guess is None else guess

  def solve(self, label, scale):
    """(dL/dlogits, scale), by sweeps from what the bias says."""
    factor = 1.0 if scale is None else scale
    error = self._start(label, factor)
    for _ in range(_SWEEPS):
      before = error
      scaled, weight = self._features(error * factor)
      tied = self._softmax(np.where(weight > 0, scaled, self.guess), label)
      if scale is None and self.sure.any():
        factor = self._scale(tied)
      if self.known.all() and self.sure.all():
        error = tied
      else:
        error = self._seen(scaled * factor, tied, label, factor)
      if np.abs(error - before).max() < 1e-12 * np.abs(error).max():
        break
    return error, factor

  def feature(self, error, factor):
    """Observed h: a value by least squares, or bounds by the intervals."""
    scaled = error * factor
    value, weight = self._features(scaled)
    safe = np.where(np.abs(scaled) > 1e-12, scaled, 1e-12)
    ends = self.kernel.low / safe, self.kernel.high / safe
    low = np.minimum(*ends).max(1)
    high = np.maximum(*ends).min(1)
    low, high = np.minimum(low, high), np.maximum(low, high)
    bounds = Observed(low, high, np.zeros_like(low))
    width = np.where(np.isfinite(high - low), high - low, bounds.middle)
    seen = weight > 0
    # Without an entry of the bias the scale is that of 1 - p of the label.
    doubt = 0.0 if self.sure.any() else 1 - np.abs(error).max()
    doubt *= 1e-2 if self.guess.any() else 1.0
    std = np.where(seen, np.hypot(np.maximum(weight, _TINY) ** -0.5,
                                  doubt * np.abs(value)),
                   0.1 * np.abs(width) + 1e-12)
    return Observed(np.where(seen, value, low), np.where(seen, value, high),
                    std)

  def misfit(self, feature, error, factor):
    residual = (self.values - factor * np.outer(feature, error)
                ) / self.kernel.std
    return float(np.mean(np.square(residual[self.known])))

  def _start(self, label, factor):
    error = np.where(self.sure, self.bias.middle, 0) / factor
    if not self.sure.any():
      return self._softmax(self.guess, label)
    unknown = ~self.sure
    prior = self._softmax(self.guess, label)
    error = np.where(unknown, np.clip(
        prior, self.bias.low / factor, self.bias.high / factor), error)
    if unknown[label]:
      error[label] = -(error.sum() - error[label])
    return error

  def _features(self, scaled):
    """([F] h by weighted least squares, [F] its weight)."""
    weight = self.weight @ scaled ** 2
    value = (self.weight * self.values) @ scaled / np.maximum(weight, _TINY)
    return value, weight

  def _softmax(self, feature, label):
    logits = self.weights.T @ feature + self.offset
    chance = np.exp(logits - logits.max())
    chance /= chance.sum()
    chance[label] -= 1
    return chance

  def _scale(self, error):
    weight = self.sure / self.bias.std ** 2
    return float(np.sum(weight * self.bias.middle * error)
                 / np.sum(weight * error ** 2))

  def _seen(self, scaled, tied, label, factor):
    """Each class' own factor from the values, their common scale apart."""
    count = scaled ** 2 @ self.weight
    factors = scaled @ (self.weight * self.values) / np.maximum(count, _TINY)
    error = np.where(count > 0, factors, tied)
    others = np.arange(len(error)) != label
    error[others] = np.maximum(error[others], 1e-12)
    if self.sure.any():
      weight = self.sure / self.bias.std ** 2
      error *= np.sum(weight * self.bias.middle / factor * error) / np.sum(
          weight * error ** 2)
      if not self.sure[label]:
        error[label] = -error[others].sum()
    else:  # no entry of the bias has a scale: the softmax has
      error *= -tied[label] / error[others].sum()
      error[label] = tied[label]
    return error
