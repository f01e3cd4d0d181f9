"""A one-step leak that stands for several local steps (FedAvg).

Surrogate model extension (SME, ICML 2023): with start weights w and update
u = w - w_N after N steps of SGD of rate r, the mean gradient u / (r N) is about
the gradient at a point w - a u between start and end. Every attack on one
gradient can run there. Neither the point nor the number of steps that did
anything is known: a clip that is fitted after the first step sends nothing in
the others, and the gradient is then N times u / (r N), at a = 0.

The head tells both. If the gradient at w - a u is g = s u / (r N), then for one
clip with g_c = e, g_W = h (x) e

  e(a) = softmax(h (W - a u_W) + c - a u_c) - onehot(y),
  h = u_W u_c / |u_c|^2,

which does not depend on s; a minimises the angle between e(a) and u_c, and
s = <e(a), u_c> r N / |u_c|^2. For B clips the residual of the head's un-mixing
takes the angle's place.
"""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np

from vidleak_jax.attacks import labels as label_inference
from vidleak_jax.attacks.analytic.head_unmixing import unmix_head
from vidleak_jax.types import Params, UserError

_ONE_STEP = 1e-5    # misfit at the start weights below which they are the point
_GRID = 21          # values of a for one clip
_BATCH_GRID = (0.35, 0.5, 0.42)  # for batches; each costs an un-mixing
_SURE = 1e-5        # residual of an un-mixing that is exact


@dataclasses.dataclass(frozen=True)
class Surrogate:
  """Weights and gradient on which attacks on one gradient run.

  Attributes:
    params: w - a u.
    gradient: s u / (r N), of the mean loss there.
    position: a, in [0, 1].
    scale: s; N where only the first step did anything.
    residual: relative misfit of the head's error and its softmax: about the
      relative error of the head's gradient.
    one_step: whether the update is one gradient at the start weights.
    note: one sentence for the user.
  """
  params: Params
  gradient: Params
  position: float
  scale: float
  residual: float
  one_step: bool
  note: str


def midpoint_surrogate(
    params: Params,
    update: Params,
    head: tuple[str, ...],
    batch_size: int,
    *,
    local_steps: int,
    local_learning_rate: float,
) -> Surrogate:
  """Finds the point and the scale at which an update is a gradient.

  Args:
    params: w, what the server sent.
    update: u = w - w_N, what the client sent, same tree.
    head: path of the last dense layer, with a bias.
    batch_size: B; every step is supposed to cover the whole batch.
    local_steps: N.
    local_learning_rate: r, of SGD without momentum.

  Raises:
    UserError: N < 1, r <= 0, a head without a bias, or a batch that its head
      cannot separate.
  """
  if local_steps < 1 or not local_learning_rate > 0:
    raise UserError(
        'local_steps must be at least 1 and local_learning_rate positive, got '
        f'{local_steps} and {local_learning_rate}.')
  weights, slopes = (_layer(tree, head) for tree in (params, update))
  if 'bias' not in slopes:
    raise UserError(
        'The surrogate of several local steps needs a head with a bias: '
        f'{"/".join(head)} has none. Choose an attack that simulates the '
        'client, such as ig.')
  mean = 1 / (local_learning_rate * local_steps)
  find = _one_clip if batch_size == 1 else _many_clips
  position, scale, residual = find(
      weights, slopes, mean, batch_size, local_steps)
  one_step = position == 0 and residual < _ONE_STEP
  if one_step:
    note = (f'The update is one gradient at the start weights, {scale:.3g} '
            f'times the mean over {local_steps} steps.')
  else:
    note = (f'The update is about the gradient at {position:.2f} of the way, '
            f'{scale:.3g} times its mean; misfit of the head {residual:.1e}.')
  moved = jax.tree.map(lambda w, u: w - position * u, params, update)
  gradient = jax.tree.map(lambda u: scale * mean * u, update)
  return Surrogate(moved, gradient, position, scale, residual, one_step, note)


def corrected_gradient(
    update: Params,
    simulated_update: Params,
    simulated_gradient: Params,
    *,
    local_steps: int,
    local_learning_rate: float,
) -> Params:
  """The surrogate's gradient, corrected by a simulated client's defect.

  For a clip x near the truth, the defect [mean gradient of the unrolled steps
  at x] - [gradient at the surrogate's weights at x] is nearly the true one:

    g = u / (r N) - (u(x) / (r N) - g(x)).

  With leaky ReLU the defect of the kernels jumps with the signs of units: from
  a clip of 20 to 40 dB only the head's part came nearer to the truth.

  Args:
    update: u, as sent.
    simulated_update: u(x), of the same N and r, from the start weights.
    simulated_gradient: g(x), at the surrogate's weights.
    local_steps: N.
    local_learning_rate: r.
  """
  mean = 1 / (local_learning_rate * local_steps)
  return jax.tree.map(
      lambda u, v, g: mean * (u - v) + g,
      update, simulated_update, simulated_gradient)


def _one_clip(weights, slopes, mean, batch_size, local_steps):
  """(a, s, misfit) by a grid over a, and a finer one around its best."""
  del batch_size, local_steps
  kernel, bias = (slopes[name] for name in ('kernel', 'bias'))
  label = label_inference.infer_labels(
      {'kernel': kernel, 'bias': bias}, weights, 1).labels[0]
  features = kernel @ bias / (bias @ bias)

  def fit(position):
    logits = features @ (weights['kernel'] - position * kernel) + (
        weights['bias'] - position * bias)
    errors = label_inference.softmax(logits)
    errors[label] -= 1
    size = errors @ bias / (bias @ bias)
    misfit = np.linalg.norm(errors - size * bias) / np.linalg.norm(errors)
    return misfit, position, size / mean

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


def _many_clips(weights, slopes, mean, batch_size, local_steps):
  """(a, s, residual) by un-mixing at a few points; the start weights first."""

  def fit(position, scale, num_starts):
    found = unmix_head(
        weights['kernel'] - position * slopes['kernel'],
        weights['bias'] - position * slopes['bias'],
        scale * mean * slopes['kernel'], scale * mean * slopes['bias'],
        batch_size, num_starts=num_starts)
    return found.residual, position, scale

  fits = [fit(0.0, float(local_steps), 16)]
  if fits[0][0] > _SURE:
    fits += [fit(position, 1.0, 8) for position in _BATCH_GRID]
  residual, position, scale = min(fits)
  return position, scale, residual


def _layer(tree, path):
  for key in path:
    tree = tree[key]
  return {name: np.asarray(leaf, np.float64) for name, leaf in tree.items()}
