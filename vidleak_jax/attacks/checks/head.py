"""What the last layer's gradient says of scale, batch size and labels.

With features h_b, weights W, c and errors e_b = softmax(h_b W + c) - y_b the
mean cross-entropy has dL/dW = (1/B) sum_b h_b (x) e_b, dL/dc = (1/B) sum_b e_b.
Errors add up to 0 over classes, the rank is at most B, and since W and c are
public, one clip's feature predicts the size of its own error.
"""

import numpy as np
import scipy.special

from vidleak_jax.attacks import labels as label_inference
from vidleak_jax.attacks.checks.view import Finding, View
from vidleak_jax.types import UserError

_CANCELS = 1e-5       # of the sum of magnitudes, that a float32 sum may leave
_NEARLY = 5e-3        # and one in half precision
_NOISES = 5.0
_VISIBLE = 1e-5       # singular value that counts, over the largest
_SINGLE = 1e-3        # of the gradient, beside its first direction
_EXACT = 0.05         # error of the scale of one clip's one step
_STEPS = 0.35         # of several steps, whose features move
_ROUGH = 0.5          # of a batch, whose features are taken as one
_SPREAD = 0.5         # of log error over log probability, of absent classes
_SMOOTHED = 0.02      # least label smoothing that is told


def check(view: View) -> list[Finding]:
  """Returns what the head says, or that there is none to read."""
  if view.head is None:
    return [Finding('head', 'unknown', 'No last dense layer with a bias is '
                    'known, which would show scale, batch size and labels.')]
  if not np.any(view.head[3]):
    return [Finding('head', 'mismatch', "The gradient of the head's bias is 0 "
                    'throughout: a loss has none such unless it is filtered '
                    'out, or the head is frozen.')]
  sums = _sums(view)
  if sums.status == 'mismatch':
    return [sums]
  return [sums, _batch(view), _scale(view), _labels(view)]


def _blur(view):
  """The standard deviation of the noise of (dL/dW, dL/dc)."""
  return tuple(view.noise((*view.victim.head, name))
               for name in ('kernel', 'bias'))


def _sums(view) -> Finding:
  """Softmax errors cancel over the classes, feature by feature."""
  _, _, kernel, bias = view.head
  noise = _blur(view)
  rows = np.vstack([kernel, bias])
  stds = np.array([noise[0]] * len(kernel) + [noise[1]])
  missed = np.abs(rows.sum(1)) - _NOISES * stds * np.sqrt(rows.shape[1])
  share = np.maximum(missed, 0).sum() / np.abs(rows).sum()
  if share < _CANCELS:
    return Finding('head_sum', 'ok', 'The errors of all classes add up to 0, '
                   'as those of a softmax do.')
  if view.weight_decay:
    return Finding('head_sum', 'mismatch', 'The update holds weight decay: '
                   f'{view.weight_decay:.3g} times the weights were added to '
                   'the gradient. Take that off.')
  if view.is_defended:
    return Finding('head_sum', 'unknown', 'The errors of the classes do not '
                   'add up to 0, as with a defence they need not.')
  if share < _NEARLY:
    return Finding('head_sum', 'warn', 'The errors of the classes add up to '
                   f'{share:.1e} of their size: rounded to half precision, or '
                   'with little noise.')
  return Finding(
      'head_sum', 'mismatch',
      f"The head's gradient adds up to {share:.1%} of its size over the "
      'classes; that of a softmax cross-entropy adds up to 0. Look for another '
      'loss (sigmoid, hinge), weight decay, an optimiser such as Adam instead '
      'of SGD, a defence that is not declared, or a kernel in another layout.')


def rank(view: View) -> int:
  """Returns the rank of the head's gradient, a lower bound of its clips."""
  assert view.head is not None
  _, _, kernel, bias = view.head
  values = np.linalg.svd(np.vstack([kernel, bias]), compute_uv=False)
  std = max(_blur(view)[0], np.sqrt(np.mean(kernel.sum(1) ** 2)
                                    / kernel.shape[1]))
  floor = std * (np.sqrt(len(kernel)) + np.sqrt(kernel.shape[1]))
  return int(np.sum(values > max(_VISIBLE * values[0], _NOISES * floor)))


def factor(view: View) -> float | None:
  """Returns the update over what one step of rate 1 on its clip would be.

  None where the head is not that of one clip.
  """
  assert view.head is not None
  weights, offsets, kernel, bias = view.head
  features, beside = _mean_feature(kernel, bias)
  if beside > _SINGLE:
    return None
  error = scipy.special.softmax(features @ weights + offsets, axis=-1)
  error[np.argmin(bias)] -= 1
  scale = float(bias @ error / (error @ error))
  left = np.linalg.norm(bias - scale * error) / np.linalg.norm(bias)
  return scale if left < _EXACT and scale > 0 else None


def _mean_feature(kernel, bias):
  """(what the head read, share of its gradient that is beside it)."""
  features = kernel @ bias / (bias @ bias)
  beside = np.linalg.norm(kernel - np.outer(features, bias))
  return features, beside / max(np.linalg.norm(kernel), 1e-150)


def _batch(view) -> Finding:
  """The rank of the head's gradient against the batch size."""
  weights = view.head[0]
  batch_size = view.leak.public.batch_size
  observed = rank(view)
  allowed = batch_size * view.num_steps
  possible = min(weights.shape[1] - 1, weights.shape[0])
  text = (f"The head's gradient has rank {observed}; batch_size {batch_size}"
          + f' and {view.num_steps} steps' * (view.num_steps > 1)
          + f' allow at most {allowed}.')
  if view.is_defended:
    return Finding('batch_size', 'unknown', f'{text} With a defence the rank '
                   'says little.')
  if observed > allowed:
    return Finding('batch_size', 'mismatch', f'{text} The batch was larger, '
                   'or more steps were taken: at least '
                   f'{-(-observed // view.num_steps)} clips a step.')
  if observed < min(batch_size, possible):
    return Finding('batch_size', 'warn', f'{text} {observed} clips would do: '
                   'either the batch was smaller, or some clips are alike or '
                   'well classified already.')
  return Finding('batch_size', 'ok', text)


def _scale(view) -> Finding:
  """The size of the head's gradient against what its features predict."""
  weights, offsets, kernel, bias = view.head
  public = view.leak.public
  if public.federated.optimizer != 'sgd':
    return Finding('head_scale', 'unknown', 'The size of an update by '
                   f'{public.federated.optimizer} is not predicted.')
  if view.is_defended and public.defense is not None and (
      public.defense.hides_scale):
    return Finding('head_scale', 'unknown', 'Clipping took the scale away.')
  features, beside = _mean_feature(kernel, bias)
  single = beside < _SINGLE or (public.batch_size == 1 and view.num_steps > 1)
  if single:
    return _single(view, features)
  probabilities = scipy.special.softmax(features @ weights + offsets, axis=-1)
  negative = -np.minimum(bias, 0).sum()
  absent = bias > 0
  if not absent.any() or view.is_defended:
    return Finding('head_scale', 'unknown', 'All classes have clips, or a '
                   'defence hides the scale.')
  logs = np.log(bias[absent] / np.maximum(probabilities[absent], 1e-30))
  ratio = bias[absent].sum() / probabilities[absent].sum()
  if negative > 1 + 1e-3 + _NOISES * _blur(view)[1] * len(bias):
    return _off_scale(view, max(ratio, negative), f"the head's errors add up "
                      f'to {negative:.3g} where a mean loss allows 1')
  if np.std(logs) > _SPREAD:
    return Finding('head_scale', 'unknown', 'The clips of the batch are too '
                   'different for the scale of their mean to show.')
  if abs(np.log(ratio)) > _ROUGH:
    return _off_scale(view, ratio, 'as the mean feature predicts')
  return Finding('head_scale', 'ok', 'The size of the gradient is what the '
                 f'batch\'s mean feature predicts ({ratio:.2f} of it).')


def _single(view, features) -> Finding:
  """One clip: its feature predicts its error exactly."""
  weights, offsets, _, bias = view.head
  onehot = np.zeros(len(bias))
  onehot[np.argmin(bias)] = 1.0
  predicted = _trained(view, features, onehot)
  factor = float(bias @ predicted / (predicted @ predicted))
  left = np.linalg.norm(bias - factor * predicted) / np.linalg.norm(bias)
  allowed = _STEPS if view.num_steps > 1 else _EXACT
  if view.is_defended:
    return Finding('head_scale', 'unknown', 'With a defence the scale is '
                   f'{factor:.3g} of what the feature predicts.')
  flipped = np.zeros(len(bias))
  flipped[np.argmax(bias)] = 1.0
  other = scipy.special.softmax(features @ weights + offsets, axis=-1) - flipped
  if factor < 0 or (len(bias) > 2 and np.linalg.norm(bias + other)
                    < 0.1 * np.linalg.norm(bias)):
    return Finding('head_scale', 'mismatch', 'The update points downhill: give '
                   'weights before minus weights after, or the gradient.')
  smoothing, rest = _smoothing(view, features, onehot)
  if smoothing > _SMOOTHED and rest < allowed / 2 and view.num_steps == 1 and (
      left > 2 * rest):
    return Finding('head_scale', 'mismatch', 'The targets were smoothed by '
                   f"{smoothing:.2f}; the victim's loss has one-hot labels.")
  if left > allowed:
    return Finding(
        'head_scale', 'mismatch', "The head's gradient is not that of these "
        f'weights: {left:.0%} of it is left beside what the feature predicts. '
        'Give the weights that the client started from, and the loss it used.')
  if abs(factor - 1) > allowed:
    return _off_scale(view, factor, "as the clip's own feature predicts")
  clips = view.leak.public.batch_size
  if clips > 1 and view.num_steps == 1:
    return Finding('head_scale', 'mismatch', f'batch_size is {clips}, but the '
                   "head's gradient is exactly that of one clip: set it to 1.")
  return Finding('head_scale', 'ok', 'The size of the gradient is what the '
                 f'clip\'s own feature predicts ({factor:.3f} of it).')


def _trained(view, features, onehot):
  """[K] the bias's mean gradient over the declared steps, features fixed."""
  weights, offsets = view.head[0], view.head[1]
  rate = view.leak.public.federated.local_learning_rate
  logits = features @ weights + offsets
  total = np.zeros_like(logits)
  for _ in range(min(view.num_steps, 1000)):
    error = scipy.special.softmax(logits, axis=-1) - onehot
    total += error
    if view.num_steps > 1:
      logits = logits - rate * (features @ features + 1) * error
  return total / min(view.num_steps, 1000)


def _smoothing(view, features, onehot):
  """(label smoothing, what is left) of the targets that fit best."""
  weights, offsets, _, bias = view.head
  error = scipy.special.softmax(features @ weights + offsets, axis=-1) - onehot
  away = onehot - 1 / len(bias)
  smoothing = float(away @ (bias - error) / (away @ away))
  left = np.linalg.norm(bias - error - smoothing * away) / np.linalg.norm(bias)
  return smoothing, left


def _off_scale(view, factor, reason) -> Finding:
  """What explains an update of `factor` times the size declared."""
  public = view.leak.public
  text = f'The update is {factor:.3g} times as large {reason}.'
  if public.federated.algorithm == 'fedavg':
    steps, rate = view.num_steps, public.federated.local_learning_rate
    advice = (f'{steps} steps of rate {rate:g} do not fit; a rate of '
              f'{rate * factor:.3g}, or about {steps * factor:.3g} steps, '
              'would.')
  elif 0.7 * public.batch_size < factor < 1.5 * public.batch_size and (
      public.batch_size > 1):
    advice = (f'A loss summed over the {public.batch_size} clips would fit: '
              f'divide the update by {public.batch_size}.')
  else:
    advice = ('Is it a weight change (then say so: federated.algorithm=fedavg, '
              f'with learning rate times steps of about {factor:.3g}), a sum '
              'over clips, or was it clipped or scaled?')
  return Finding('head_scale', 'mismatch', f'{text} {advice}')


def _labels(view) -> Finding:
  """Labels that are known against those that the gradient proves."""
  weights, offsets, kernel, bias = view.head
  public = view.leak.public
  if view.is_defended:
    return Finding('labels', 'unknown', 'A defence hides the label counts.')
  try:
    estimate = label_inference.infer_labels(
        {'kernel': kernel, 'bias': bias},
        {'kernel': weights, 'bias': offsets}, public.batch_size)
  except UserError as error:
    return Finding('labels', 'unknown', str(error))
  proven = estimate.at_least
  if view.num_steps == 1 and 'more than the batch size' in estimate.note:
    return Finding('labels', 'mismatch', estimate.note)
  if view.leak.labels is None:
    return Finding('labels', 'ok', estimate.note)
  given = np.bincount(view.leak.labels[view.index], minlength=len(bias))
  if view.num_steps == 1 and np.any(proven > given):
    wrong = np.flatnonzero(proven > given)
    return Finding(
        'labels', 'mismatch', f'The labels given have {given[wrong].tolist()} '
        f'clips of the classes {wrong.tolist()}; the gradient proves at least '
        f'{proven[wrong].tolist()}.')
  return Finding('labels', 'ok', 'The labels given agree with the gradient.')
