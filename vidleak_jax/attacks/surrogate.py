"""A one-step leak that stands for several local steps (FedAvg).

Surrogate model extension (SME, ICML 2023): with start weights w and update
u = w - w_N after N steps of local training, the mean gradient m, which is
u / (r N) for plain SGD of rate r (`local_training.mean_gradient`), is about the
gradient at a point w - a u between start and end. Every attack on one gradient
can run there. Neither the point nor the number of steps that did anything is
known: a clip that is fitted after the first step sends nothing in the others,
and the gradient is then N times m, at a = 0.

The head tells both. If the gradient at w - a u is g = s m, then for one clip
with g_c = e, g_W = h (x) e

  e(a) = softmax(h (W - a u_W) + c - a u_c) - onehot(y),
  h = m_W m_c / |m_c|^2,

which does not depend on s; a minimises the angle between e(a) and m_c, and
s = <e(a), m_c> / |m_c|^2. For B clips the residual of the head's un-mixing
takes the angle's place. Of minibatches in few possible orders all are tried at
the head, whose un-mixing tells the right one. Where the head tells nothing,
after Adam, the point is `TYPICAL`.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import numpy as np
import scipy.special

from vidleak_jax.attacks import labels as label_inference
from vidleak_jax.attacks import local_training
from vidleak_jax.attacks.analytic.head_unmixing import UnmixedHead, unmix_head
from vidleak_jax.specs import LocalTraining
from vidleak_jax.types import Params, UserError

TYPICAL = 0.42      # the point of steps whose loss falls slowly
_ONE_STEP = 1e-5    # misfit at the start weights below which they are the point
_GRID = 21          # values of a for one clip
_BATCH_GRID = (0.35, 0.5, TYPICAL)  # for batches; each costs an un-mixing
_SURE = 1e-5        # residual of an un-mixing that is exact


@dataclasses.dataclass(frozen=True)
class Surrogate:
  """Weights and gradient on which attacks on one gradient run.

  Attributes:
    params: w - a u.
    gradient: s m, of the mean loss there; of Adam its signs, about.
    position: a, in [0, 1].
    scale: s; N where only the first step did anything.
    residual: relative misfit of the head's error and its softmax: about the
      relative error of the head's gradient. NaN where it was not looked at.
    one_step: whether the update is one gradient at the start weights.
    note: one sentence for the user.
    unmixed: how the head separates the clips, where minibatches make it differ
      from one gradient.
  """
  params: Params
  gradient: Params
  position: float
  scale: float
  residual: float
  one_step: bool
  note: str
  unmixed: UnmixedHead | None = None


def midpoint_surrogate(
    params: Params,
    update: Params,
    head: tuple[str, ...],
    batch_size: int,
    training: LocalTraining,
    *,
    labels: Sequence[int] | None = None,
) -> Surrogate:
  """Finds the point and the scale at which an update is a gradient.

  Args:
    params: w, what the server sent.
    update: u = w - w_N, what the client sent, same tree.
    head: path of the last dense layer, with a bias.
    batch_size: B.
    training: of the client, by plain or momentum SGD.
    labels: [B], where the attacker knows them.

  Raises:
    UserError: a head without a bias, a batch that its head cannot separate, or
      an optimiser whose updates are no sums of gradients.
  """
  if not local_training.is_linear(training):
    raise UserError(
        f'An update of optimizer={training.optimizer} is no sum of gradients, '
        'so that its head says little. Choose attack.name=ig.')
  mean = local_training.mean_gradient(params, update, training, batch_size)
  weights, moves, slopes = (
      _layer(tree, head) for tree in (params, update, mean))
  if 'bias' not in slopes:
    raise UserError(
        'The surrogate of several local steps needs a head with a bias: '
        f'{"/".join(head)} has none. Choose an attack that simulates the '
        'client, such as ig.')
  if (tried := _orders(training, batch_size)) is not None:
    unmixed = unmix_head(
        weights['kernel'], weights['bias'], slopes['kernel'], slopes['bias'],
        batch_size, labels=labels,
        turns=local_training.turns(training, batch_size, tried))
    near = _at(params, update, mean, local_training.position(
        training, batch_size), 1.0, unmixed.residual, False, unmixed.note)
    return dataclasses.replace(near, unmixed=unmixed)
  seen = local_training.response(training, batch_size)
  most = seen.gain / float(seen.weights[0])  # of the first step alone
  find = _one_clip if batch_size == 1 else _many_clips
  position, scale, residual = find(weights, moves, slopes, batch_size, most)
  one_step = position == 0 and residual < _ONE_STEP
  if one_step:
    note = (f'The update is one gradient at the start weights, {scale:.3g} '
            f'times the mean over {len(seen.weights)} steps.')
  else:
    note = (f'The update is about the gradient at {position:.2f} of the way, '
            f'{scale:.3g} times its mean; misfit of the head {residual:.1e}.')
  return _at(params, update, mean, position, scale, residual, one_step, note)


def surrogate(
    params: Params, update: Params, head: tuple[str, ...] | None,
    batch_size: int, training: LocalTraining,
) -> Surrogate:
  """Returns the surrogate of any update that is not refused as unknown.

  Where the head cannot tell the point, it is `TYPICAL`.

  Args:
    params: w, what the server sent.
    update: u = w - w_N, what the client sent, same tree.
    head: path of the last dense layer, or None.
    batch_size: B.
    training: of the client.
  """
  if head and local_training.is_linear(training) and not (
      training.is_shuffled(batch_size)):
    try:
      return midpoint_surrogate(params, update, head, batch_size, training)
    except UserError:
      pass
  mean = local_training.mean_gradient(params, update, training, batch_size)
  many = training.num_local_steps(batch_size) > 1
  position = TYPICAL if many else 0.0
  what = 'gradient' if local_training.is_linear(training) else (
      'signs of the gradient')
  return _at(params, update, mean, position, 1.0, float('nan'), False,
             f'The update is taken as the {what} at {position:.2f} of the way; '
             'the head does not tell this point.')


def _orders(training, batch_size):
  """All orders where they are few, or one of many by which clips are named."""
  tried = local_training.orders(training, batch_size)
  steps = training.num_local_steps(batch_size)
  if (tried is None and training.is_shuffled(batch_size)
      and steps == training.steps_an_epoch(batch_size)
      and np.ptp(local_training.response(training, batch_size).weights)):
    return np.arange(batch_size)[None, None]
  return tried


def _at(params, update, mean, position, scale, residual, one_step, note):
  moved = jax.tree.map(lambda w, u: w - position * u, params, update)
  gradient = jax.tree.map(lambda m: scale * m, mean)
  return Surrogate(moved, gradient, position, scale, residual, one_step, note)


def _one_clip(weights, moves, slopes, batch_size, most):
  """(a, s, misfit) by a grid over a, and a finer one around its best."""
  del batch_size, most
  kernel, bias = (slopes[name] for name in ('kernel', 'bias'))
  label = label_inference.infer_labels(
      {'kernel': kernel, 'bias': bias}, weights, 1).labels[0]
  features = kernel @ bias / (bias @ bias)

  def fit(position):
    logits = features @ (weights['kernel'] - position * moves['kernel']) + (
        weights['bias'] - position * moves['bias'])
    errors = scipy.special.softmax(logits, axis=-1)
    errors[label] -= 1
    scale = errors @ bias / (bias @ bias)
    misfit = np.linalg.norm(errors - scale * bias) / np.linalg.norm(errors)
    return misfit, position, scale

  start = fit(0.0)
  if start[0] < _ONE_STEP:
    best = start
  else:
    best = _best(fit, np.linspace(0, 1, _GRID))
    step = 1 / (_GRID - 1)
    best = _best(fit, np.clip(
        best[1] + np.linspace(-step, step, _GRID), 0, 1))
  misfit, position, scale = best
  return float(position), float(scale), float(misfit)


def _best(fit: Callable[[float], tuple], positions) -> tuple:
  return min((fit(float(each)) for each in positions), key=lambda f: f[0])


def _many_clips(weights, moves, slopes, batch_size, most):
  """(a, s, residual) by un-mixing at a few points; the start weights first."""

  def fit(position, scale, num_starts):
    unmixed = unmix_head(
        weights['kernel'] - position * moves['kernel'],
        weights['bias'] - position * moves['bias'],
        scale * slopes['kernel'], scale * slopes['bias'],
        batch_size, num_starts=num_starts)
    return unmixed.residual, position, scale

  fits = [fit(0.0, most, 16)]
  if fits[0][0] > _SURE:
    fits += [fit(position, 1.0, 8) for position in _BATCH_GRID]
  residual, position, scale = min(fits)
  return position, scale, residual


def _layer(tree, path):
  for key in path:
    tree = tree[key]
  return {name: np.asarray(leaf, np.float64) for name, leaf in tree.items()}
