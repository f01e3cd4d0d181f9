"""How many clips of each class a batch has, estimated from its head's gradient.

One mean feature m_i per class, fitted to dL/dW, gives
p^(i) = softmax(m_i W + c); then `sum_i n_i (p^(i) - onehot_i) = B dL/dc` and
`sum n = B` are linear in the counts n (iLRG, ICLR 2023). The variation within a
class is ignored, so this proves nothing.
"""

import heapq

import numpy as np
import scipy.optimize
import scipy.special

_ROUNDS = 20       # of the estimate's fixed point
_RIDGE = 1e-3      # pull of class means towards the batch's mean feature


def expected_counts(
    kernel_update: np.ndarray,
    bias_update: np.ndarray,
    kernel: np.ndarray,
    bias: np.ndarray,
    batch_size: int,
) -> np.ndarray:
  """[K] real-valued label counts from one mean feature per class (iLRG).

  A fixed point of three steps: class means m_i by least squares from
  dL/dW = (1/B) sum_i n_i m_i (x) (p^(i) - onehot_i); p^(i) from m_i; counts n
  by non-negative least squares from dL/dc.

  Args:
    kernel_update: dL/dW, [F, K].
    bias_update: dL/dc, [K].
    kernel: W, [F, K].
    bias: c, [K].
    batch_size: B.
  """
  num_classes = len(bias)
  eye = np.eye(num_classes)
  probabilities = np.full((num_classes, num_classes), 1 / num_classes)
  counts = np.maximum(-batch_size * bias_update, 0) + batch_size / num_classes
  counts *= batch_size / counts.sum()
  for step in range(_ROUNDS):
    n = np.maximum(counts, 1e-3)
    errors = n[:, None] * (probabilities - eye) / batch_size
    spread = np.diag(n) - np.outer(n, n) / n.sum()
    system = errors @ errors.T
    size = np.trace(system) / np.trace(spread)
    system += size * (_RIDGE * spread + 1e-9 * np.diag(n))
    means = np.linalg.solve(system, errors @ kernel_update.T)
    probabilities = scipy.special.softmax(means @ kernel + bias, axis=-1)
    new = scipy.optimize.nnls(
        np.vstack([(probabilities - eye).T, np.ones(num_classes)]),
        np.append(batch_size * bias_update, batch_size))[0]
    counts = new if step == _ROUNDS - 1 else (counts + new) / 2
  return counts


def rank_counts(
    expected: np.ndarray, lower: np.ndarray, batch_size: int, limit: int
) -> list[np.ndarray]:
  """Integer counts nearest to the expected ones, in the order of distance.

  Args:
    expected: [K] real counts.
    lower: [K] int, proven lower bounds; their sum is at most B.
    batch_size: B, the sum of every answer.
    limit: how many answers at most.

  Returns:
    Arrays [K] int, by increasing squared distance from `expected`.
  """
  best = lower.copy()
  for _ in range(batch_size - lower.sum()):  # optimal: convex and separable
    best[np.argmin(2 * (best - expected))] += 1
  seen, ranked = {tuple(best)}, []
  heap = [(float(np.sum((best - expected) ** 2)), tuple(best))]
  while heap and len(ranked) < limit:
    cost, counts = heapq.heappop(heap)
    counts = np.array(counts)
    ranked.append(counts)
    give = 2 * (expected - counts) + 1   # the cost of one less, of one more
    take = 2 * (counts - expected) + 1
    give[counts <= lower] = np.inf
    moves = give[:, None] + take[None]
    np.fill_diagonal(moves, np.inf)
    for flat in np.argsort(moves, axis=None)[:limit]:
      i, j = np.unravel_index(flat, moves.shape)
      if not np.isfinite(moves[i, j]):
        break
      other = counts.copy()
      other[i] -= 1
      other[j] += 1
      if tuple(other) not in seen:
        seen.add(tuple(other))
        heapq.heappush(heap, (cost + float(moves[i, j]), tuple(other)))
  return ranked


def implied_bias_update(kernel, weights, offsets, batch_size):
  """[K] what dL/dc would be: u dL/dW with u such that h_b u is about 1.

  Starts from equal entries of u, since features after a ReLU are positive, and
  refines u on the class means. The scale makes the absent classes' sum agree
  with their probabilities.
  """
  num_classes = kernel.shape[1]
  slope = kernel.sum(0)
  if slope[np.argmax(np.linalg.norm(kernel, axis=0))] > 0:
    slope = -slope  # features that are negative on the whole
  for _ in range(3):
    slope = slope * _scale(slope)
    counts = expected_counts(kernel, slope, weights, offsets, batch_size)
    present = counts > 0.3
    if present.sum() >= min(kernel.shape):
      break
    eye = np.eye(num_classes)[present]
    means = _means(kernel, eye, counts[present], batch_size)
    gram = means @ means.T
    gram += 1e-3 * np.trace(gram) / len(gram) * np.eye(len(gram))
    slope = kernel.T @ (means.T @ np.linalg.solve(gram, np.ones(len(gram))))
  return slope * _scale(slope)


def _means(kernel, eye, counts, batch_size):
  """Mean features of the present classes if all probabilities were equal."""
  errors = counts[:, None] * (1 / eye.shape[1] - eye) / batch_size
  return np.linalg.lstsq(errors.T, kernel.T, rcond=None)[0]


def _scale(slope):
  """What a projection must be multiplied by to be dL/dc of a blank network.

  There an absent class has 1 / K; the median is over all positive entries.
  """
  positive = slope[slope > 0]
  return 1 / (len(slope) * np.median(positive)) if positive.size else 1.0
