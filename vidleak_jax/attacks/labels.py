"""Infers a batch's labels, repeats included, from the softmax head's gradient.

For a head `logits = h W + c` under mean cross-entropy,

  dL/dc_k = (P_k - n_k) / B,  P_k = sum_b p_bk,

with n_k the number of clips of class k and p_b the probabilities of clip b.

* Bounds. P_k > 0, so n_k > -B dL/dc_k. Where these lower bounds, rounded up,
  add up to B, they *prove* the counts (iDLG, 2001.02610, is the case B = 1).
* Estimate. Where they do not, `label_counts` fits the counts, which proves
  nothing: other counts that are nearly as good are listed as alternatives.
  `analytic.head_unmixing` decides between them exactly where B < K.
* Without a bias, projections of dL/dW on a direction along which all features
  are 1 take its place.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from vidleak_jax import trees
from vidleak_jax.attacks import label_counts, local_training
from vidleak_jax.types import Leak, UserError

_LISTED = 8        # alternatives in an answer
_FLOAT32 = 1e-6    # what rounding leaves of a gradient, relative to its largest
_STEADY = 0.8      # of the largest fall: less says that some clip has the class
_SIGMAS = 5.0      # noise that a sign must exceed to count as seen


@dataclasses.dataclass(frozen=True)
class LabelEstimate:
  """The labels of one batch.

  Attributes:
    labels: [B] int32, sorted, with repeats.
    certain: whether the gradient proves them; if not, `labels` is the best
      estimate and the truth may be among `alternatives` or none of them.
    alternatives: further candidates, each like `labels`, best first.
    note: one sentence for the user, why the labels are (not) certain.
    at_least: [K] int, how many clips of each class the gradient proves.
  """
  labels: np.ndarray
  certain: bool
  alternatives: tuple[np.ndarray, ...]
  note: str
  at_least: np.ndarray


def infer_all(leak: Leak, head: Sequence[str]) -> list[LabelEstimate]:
  """Returns the labels of every update of a leak.

  A weight change is taken as the mean of the gradients that made it; of Adam
  only its signs are looked at.

  Args:
    leak: M updates.
    head: path of the last dense layer.
  """
  federated, count = leak.public.federated, leak.public.batch_size
  update, params = (
      {name: np.asarray(leaf, np.float64) for name, leaf in
       trees.at(tree, head).items()} for tree in (leak.update, leak.params))
  largest = 1.0
  if federated.algorithm == 'fedavg':
    update = local_training.mean_gradient(params, update, federated, count)
    largest = local_training.largest_weight(federated, count)
  each = [{name: leaf[i] for name, leaf in update.items()}
          for i in range(leak.num_updates)]
  if federated.algorithm == 'fedavg' and not local_training.is_linear(
      federated):
    proves = federated.optimizer == 'adam' and not federated.weight_decay
    return [labels_of_signs(one, count, proves=proves) for one in each]
  return [infer_labels(one, params, count, largest_weight=largest)
          for one in each]


def labels_of_signs(
    head_update: Mapping[str, np.ndarray], batch_size: int, *, proves: bool
) -> LabelEstimate:
  """Returns labels from how steadily Adam moved the head's bias.

  A class that no clip has is lowered by every step, by about the full rate. One
  that a clip has is raised by the minibatches with that clip, so that its bias
  rises, or falls by less.

  Args:
    head_update: as for `infer_labels`, over rate times steps.
    batch_size: B.
    proves: whether a bias that rose proves that its class is there.
  """
  kernel, bias, *_ = _checked(head_update, head_update, batch_size)
  scores = kernel.sum(0) if bias is None else bias
  steady = 0.0 if bias is None else _STEADY * scores.max()
  present = scores < max(steady, 0.0)
  if present.sum() > batch_size or not present.any():
    present = np.zeros(len(scores), bool)
    present[np.argsort(scores)[:batch_size]] = True
  proven = (scores < 0) & proves
  if proven.sum() > batch_size:
    proven[:] = False
  lower = (proven & present).astype(int)
  if lower.sum() == batch_size:
    return LabelEstimate(
        _labels(lower), True, (), 'Only the bias of these classes rose.', lower)
  expected = np.where(present, batch_size / present.sum(), 0.0)
  best, *others = (_labels(each) for each in label_counts.rank_counts(
      expected, lower, batch_size, _LISTED + 1))
  return LabelEstimate(
      best, False, tuple(others), f'{lower.sum()} of {batch_size} labels are '
      'proven by the signs of the head\'s update; the others are those whose '
      'bias fell least steadily, and how often each repeats is a guess.', lower)


def infer_labels(
    head_update: Mapping[str, np.ndarray],
    head_params: Mapping[str, np.ndarray],
    batch_size: int,
    *,
    largest_weight: float = 1.0,
) -> LabelEstimate:
  """Infers the labels of one batch from the gradient of its softmax head.

  Args:
    head_update: 'kernel' [F, K] and, where the head has one, 'bias' [K]: the
      gradient of the *mean* loss. A weight change must be divided by learning
      rate times number of steps first.
    head_params: the same entries of the parameters.
    batch_size: B.
    largest_weight: the most that a clip may weigh in the update, over the
      mean; above 1 where local training counts some minibatches more.

  Returns:
    The labels; `certain` where they are proven. Without a bias the proof
    supposes features that are positive on the whole, as after a ReLU.

  Raises:
    UserError: for shapes that do not agree, values that are not finite, a
      gradient of zeros, or B < 1.
  """
  kernel, bias, weights, offsets = _checked(
      head_update, head_params, batch_size)
  num_classes = kernel.shape[1]
  noise = _noise(kernel)
  if batch_size == 1:
    return _single(kernel, bias, noise)
  unit = bias is None
  slope = bias
  if unit:
    slope = label_counts.implied_bias_update(
        kernel, weights, offsets, batch_size)
    noise *= np.linalg.norm(slope) / max(np.linalg.norm(kernel), 1e-300)
  size = np.abs(slope).max()
  lower = np.floor(
      (-batch_size * slope - batch_size * (_SIGMAS * noise + _FLOAT32 * size))
      / largest_weight)
  lower = np.maximum(lower + 1, 0).astype(int)
  if unit:  # the scale is a guess, so only the signs prove something
    lower = np.minimum(lower, 1)
  if lower.sum() == batch_size:
    return LabelEstimate(_labels(lower), True, (), (
        'The signs of the head\'s gradient prove the labels.' if unit else
        'The bias gradient proves the count of every label.'), lower)
  if lower.sum() > batch_size:
    note = (f'The gradient shows at least {lower.sum()} labels, more than the '
            f'batch size of {batch_size}: noise, a defence, or a batch size or '
            'scale that is not the client\'s.')
    lower = np.zeros(num_classes, int)
  else:
    note = (f'Only {lower.sum()} of {batch_size} labels are proven; how often '
            'each one repeats is an estimate.')
  counts = label_counts.expected_counts(
      kernel, slope, weights, offsets, batch_size)
  ranked = label_counts.rank_counts(counts, lower, batch_size, _LISTED + 1)
  best, *others = (_labels(each) for each in ranked)
  return LabelEstimate(best, False, tuple(others), note, lower)


def _checked(head_update, head_params, batch_size):
  """(dL/dW, dL/dc or None, W, c) in float64; c is 0 where there is none."""
  kernel, weights = (np.asarray(tree['kernel'], np.float64)
                     for tree in (head_update, head_params))
  if kernel.ndim != 2 or kernel.shape != weights.shape:
    raise UserError(
        'A head\'s kernel and its gradient must both be [features, classes], '
        f'got {weights.shape} and {kernel.shape}. Pass one message at a time.')
  if batch_size < 1:
    raise UserError(f'batch_size must be at least 1, got {batch_size}.')
  bias = head_update.get('bias')
  if bias is not None:
    bias = np.asarray(bias, np.float64)
    if bias.shape != kernel.shape[1:]:
      raise UserError(
          f'The gradient of the head\'s bias must be {kernel.shape[1:]}, got '
          f'{bias.shape}. Pass one message at a time.')
  offsets = head_params.get('bias')
  offsets = (np.zeros(kernel.shape[1]) if offsets is None
             else np.asarray(offsets, np.float64))
  for values in (kernel, bias):
    if values is not None and not (np.isfinite(values).all() and values.any()):
      raise UserError(
          'The gradient of the head is zero or not finite: it says nothing '
          'about labels. Pass the labels, if they are known.')
  return kernel, bias, weights, offsets


def _noise(kernel):
  """The noise of one entry: without any, the classes' gradients cancel."""
  return np.sqrt(np.mean(kernel.sum(1) ** 2) / kernel.shape[1])


def _single(kernel, bias, noise):
  """The label of a single clip: the only class whose error is negative."""
  if bias is not None:
    scores, allowed = bias, _SIGMAS * noise
  else:  # |p_k - 1| of the label is the sum of all the others
    scores, allowed = -np.linalg.norm(kernel, axis=0), (
        _SIGMAS * noise * np.sqrt(len(kernel)))
  order = np.argsort(scores)
  margin = scores[order[1]] - scores[order[0]]
  floor = _FLOAT32 * np.abs(scores).max()
  certain = bool(margin > allowed + floor)
  if not certain and bias is None:  # two classes: h is positive on the whole
    order = order[np.argsort(kernel.sum(0)[order[:2]])]
  labels = order[:1].astype(np.int32)
  counts = np.zeros(len(scores), int)
  if certain:
    counts[labels] = 1
    return LabelEstimate(
        labels, True, (), 'Only one class has a negative error.', counts)
  return LabelEstimate(
      labels, False, (order[1:2].astype(np.int32),),
      'Two classes fit equally well: noise, or a head of two classes without '
      'a bias.', counts)


def _labels(counts):
  return np.repeat(np.arange(len(counts)), counts).astype(np.int32)
