"""Which labels and turns of its clips a head's un-mixing starts from."""

from collections.abc import Sequence

import numpy as np

from vidleak_jax.attacks import label_counts, local_training
from vidleak_jax.attacks.labels import LabelEstimate
from vidleak_jax.attacks.local_training import Turns
from vidleak_jax.types import UserError


def likely_labels(estimate: LabelEstimate, batch_size: int, limit: int
                  ) -> list[np.ndarray]:
  """Returns labels [B]: the estimate, near ties, then all other counts.

  In a confident network the estimate says little beyond which classes are
  present; all ways to fill the batch with those follow, even counts first.

  Args:
    estimate: of `infer_labels`.
    batch_size: B.
    limit: of the other counts.
  """
  candidates = [estimate.labels, *estimate.alternatives]
  at_least = estimate.at_least
  if estimate.certain or not at_least.any():
    return candidates
  present = np.flatnonzero(at_least)
  ranked = label_counts.rank_counts(
      np.full(len(present), batch_size / len(present)), at_least[present],
      batch_size, limit)
  seen = {tuple(each) for each in candidates}
  filled = [np.repeat(present, counts).astype(np.int32) for counts in ranked]
  filled = [each for each in filled if tuple(each) not in seen]
  return candidates[:2] + filled + candidates[2:]


def in_turns(candidates: Sequence[np.ndarray], turns: Turns, slope: np.ndarray
             ) -> list[tuple[np.ndarray, Turns]]:
  """Returns labels and turns of their clips, in each order of minibatches.

  Those come first whose weights fit the head's bias best.

  Args:
    candidates: labels, [B] each.
    turns: of each order; or of one in which clips are named by their turn:
      those that count more lower their label's entry of the bias more.
    slope: [K] dL/dc of the mean loss, or what stands for it.
  """
  if len(turns.shares) == 1 and np.ptp(turns.weights):
    candidates = [
        each for labels in candidates for each in _neighbours(
            local_training.in_order_of_weight(labels, slope))]
  pairs = [(labels, Turns(*row)) for labels in candidates
           for row in zip(*turns, strict=True)]

  def misfit(pair):
    labels, own = pair
    there = np.bincount(labels, own.weights, minlength=len(slope))
    return np.linalg.norm(there + len(labels) * np.minimum(slope, 0))
  return sorted(pairs, key=misfit) if np.ptp(turns.weights) else pairs


def _neighbours(labels):
  """Labels, and those with two that follow each other in turn."""
  yield labels
  for i in range(len(labels) - 1):
    yield np.concatenate([
        labels[:i], labels[i:i + 2][::-1], labels[i + 2:]])


def known_labels(labels: Sequence[int], batch_size: int, num_classes: int
                 ) -> np.ndarray:
  """Returns labels that are told, sorted, or raises UserError."""
  labels = np.sort(np.asarray(labels, np.int32))
  if labels.shape != (batch_size,) or labels.min() < 0 or (
      labels.max() >= num_classes):
    raise UserError(
        f'labels must be {batch_size} integers in [0, {num_classes}), got '
        f'shape {labels.shape} with values {labels.min()} to {labels.max()}.')
  return labels
