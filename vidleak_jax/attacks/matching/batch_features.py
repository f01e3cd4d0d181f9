"""Feature matching for batches: exact targets for each clip from the head.

The head's gradient tells every clip's feature h_b and dL/dh_b (one clip:
algebra; B clips: `analytic.head_unmixing`). Of the layer below, with x_b its
input as a function of the guess, two things are then known:

  its output of each clip,  linear(W, x_b) + b = z_b,  z_b = activation^-1(h_b)
  its kernel's gradient,    sum_b sum dz_b dlinear/dW(x_b) = dL/dW,
                            dz_b = dL/dh_b f'(z_b)

Both are linear in x. The kernel's gradient is one sum over all clips; the
outputs say which part belongs to which clip. It is whitened by dz's second
moments over clips and positions, so that every output channel counts, however
little it moved the loss. `prepare` computes all this once per message;
`residuals` and `feature_match` are pure functions of guess and target.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vidleak_jax import trees
from vidleak_jax.attacks.analytic.activations import INVERTIBLE
from vidleak_jax.attacks.analytic.head_unmixing import UnmixedHead, unmix_head
from vidleak_jax.attacks.matching import chain
from vidleak_jax.types import Array, Layer, Params, UserError

_RIDGE = 1e-7  # of the largest eigenvalue, when whitening
_DOUBTFUL = 0.1  # of the outputs' root mean square: nearer to 0 a sign may turn
_SLOPE_STEPS = 10  # of conjugate gradients for the slopes of doubtful units


class FeatureTarget(NamedTuple):
  """What one message says of a layer's output and kernel; float32 arrays."""
  output: Array       # [B, ...] after the activation
  slope: Array        # [B, ...] dL/d output, of the mean loss
  kernel_grad: Array  # [N, C]: the layer's, one row for each tap and input
  whitening: Array    # [C, C]; unused where the activation has no inverse
  params: Params      # of the layers up to this one
  labels: Array       # [B] int32, sorted; clips of the guess come in this order
  residual: Array     # [] of the un-mixing; 0 for one clip
  doubtful: Array     # [B, ...] 1 where a unit's slope is not known, else 0


def prepare(
    layers: tuple[Layer, ...],
    params: Params,
    update: Params,
    batch_size: int,
    *,
    labels: np.ndarray | None = None,
    error: float = 0.0,
    seed: int = 0,
    unmixed: UnmixedHead | None = None,
) -> tuple[FeatureTarget, UnmixedHead | None]:
  """The targets of one message, and how its clips were separated.

  Args:
    layers: a victim's, the dense head last.
    params: the weights the client started from.
    update: the gradient of the mean loss, leaves like those of `params`.
    batch_size: B.
    labels: [B], where the attacker knows them.
    error: relative error of the gradient, as for `from_features`.
    seed: of the un-mixing.
    unmixed: how the head separates the clips, where that is known.

  Returns:
    (target, un-mixing; None for one clip). The un-mixing says whether the
    targets are certain.

  Raises:
    UserError: fewer than two layers, a head without a bias and one clip, or a
      batch that cannot be separated.
  """
  _check_layers(layers)
  head = layers[-1].name
  weights, grads = trees.named(params, head), trees.named(update, head)
  if batch_size == 1:
    if 'bias' not in grads:
      raise UserError(
          'Feature matching of one clip needs the gradient of the head\'s '
          'bias, and this head has none. Choose ig.')
    errors = np.asarray(grads['bias'], np.float64)
    features = np.asarray(grads['kernel'], np.float64) @ errors / (
        errors @ errors)
    inferred = np.array([errors.argmin()]) if labels is None else labels
    target = from_features(
        layers, params, update, features[None], errors[None], inferred,
        error=error)
    return target, None
  unmixed = unmixed or unmix_head(
      weights['kernel'], weights.get('bias'), grads['kernel'],
      grads.get('bias'), batch_size, labels=labels, seed=seed)
  target = from_features(
      layers, params, update, unmixed.features, unmixed.errors, unmixed.labels,
      shares=unmixed.shares.sum(0), error=error)
  return target._replace(
      residual=np.float32(unmixed.residual)), unmixed


def from_features(
    layers: tuple[Layer, ...],
    params: Params,
    update: Params,
    features: np.ndarray,
    errors: np.ndarray,
    labels: np.ndarray,
    *,
    shares: np.ndarray | None = None,
    error: float = 0.0,
) -> FeatureTarget:
  """The targets, given each clip's feature and error.

  Args:
    layers: a victim's, the dense head last.
    params: the weights at which the gradient was taken.
    update: the gradient of the mean loss.
    features: [B, F], the head's input of each clip.
    errors: [B, K], dL_b/dlogits of each clip's own loss.
    labels: [B].
    shares: [B] of the clips in the gradient; None: 1 / B each.
    error: relative error of the kernel's gradient, 0 for an exact one. Where
      the gradient is only about right, output channels whose dz is smaller
      than that stay unamplified: whitening by (S + error^2 S_max)^(-1/2), and
      slopes of units near zero are doubtful.
  """
  _check_layers(layers)
  head, layer = layers[-1], layers[-2]
  kernel = np.asarray(trees.named(params, head.name)['kernel'], np.float64)
  shape = (len(features), *head.in_shape)
  output = np.asarray(features).reshape(shape)
  if shares is None:
    shares = np.full(len(features), 1 / len(features))
  slope = (shares[:, None] * np.asarray(errors) @ kernel.T).reshape(shape)
  channels = output.shape[-1]
  whitening, doubtful = np.eye(channels), np.zeros(shape)
  if layer.activation in INVERTIBLE:
    inverse = INVERTIBLE[layer.activation]
    dz = _rows(slope * np.asarray(inverse.slope(output)))
    whitening = np.asarray(_whitening(
        np.float32(dz), max(_RIDGE, error ** 2)))
    if error:
      z = np.asarray(inverse.inverse(output))
      doubtful = np.abs(z) < _DOUBTFUL * np.sqrt(np.mean(z ** 2))
  return FeatureTarget(
      *(np.float32(each) for each in (
          output, slope, _rows(np.asarray(
              trees.named(update, layer.name)['kernel'])),
          whitening)),
      chain.leaves(layers[:-1], params), np.asarray(labels, np.int32),
      np.float32(0),
      np.float32(doubtful))


def residuals(
    layers: tuple[Layer, ...], *, exact: bool = True
) -> Callable[[Array, FeatureTarget], tuple[Array, Array]]:
  """The equations as `(clips, target) -> (output's misfit, kernel's misfit)`.

  Each is relative to its target, so that the sum of all squares is the sum of
  two relative squared errors. Where the activation has no inverse, signs that
  it hides are taken from the guess, and carry no derivative.

  Args:
    layers: a victim's, the dense head last.
    exact: False for targets of several local steps: a unit near zero changes
      its sign on the way, and a few of those spoil the kernel's gradient, in
      which they are linear. They are solved for, and carry no derivative.
  """
  _check_layers(layers)
  layer = layers[-2]

  def equations(clips, target):
    x, z = chain.run(layers[:-1], target.params, clips)
    kernel = target.params[layer.name]['kernel']
    _, pull = jax.vjp(lambda kernel: layer.linear(kernel, x), kernel)
    if layer.activation in INVERTIBLE:
      inverse = INVERTIBLE[layer.activation]
      goal = inverse.inverse(target.output)
      output = (z - goal) / _norm(goal)
      dz = target.slope * inverse.slope(target.output)
      white = target.whitening
      if not exact:
        dz += _unknown_slopes(layer, x, pull, dz, target)
    else:
      output = (layer.activate(z) - target.output) / _norm(target.output)
      dz = lax.stop_gradient(target.slope * jax.jvp(
          layer.activate, (z,), (jnp.ones_like(z),))[1])
      white = lax.stop_gradient(_whitening(_rows(dz)))
    grads = _rows(pull(dz)[0])
    goal = target.kernel_grad @ white
    return output, (grads @ white - goal) / _norm(goal)
  return equations


def feature_match(
    layers: tuple[Layer, ...], *, exact: bool = True,
    kernel_weight: float = 1.0,
) -> Callable[[Array, FeatureTarget], Array]:
  """The match as a term: `(clips [B, T, H, W, C], target) -> []`.

  Args:
    layers: a victim's, the dense head last.
    exact: as for `residuals`.
    kernel_weight: of the kernel's equations; the ratio of both targets' squared
      relative errors, where they have any.

  Returns:
    The relative squared error of the outputs plus that of the kernel's
    gradient, weighted: 0 at the true batch, in the order of `target.labels`.

  Raises:
    UserError: the victim does not list at least two layers.
  """
  equations = residuals(layers, exact=exact)

  def term(clips, target):
    output, kernel = equations(clips, target)
    return jnp.sum(output ** 2) + kernel_weight * jnp.sum(kernel ** 2)
  return term


def _unknown_slopes(layer, x, pull, dz, target):
  """What has to be added to dz where slopes are not known; no derivative.

  Least squares: the kernel's gradient is linear in dz.
  """
  missing = target.kernel_grad - _rows(pull(dz)[0])

  def seen(kernel):
    return target.doubtful * layer.linear(
        kernel.reshape(target.params[layer.name]['kernel'].shape), x)
  found, _ = jax.scipy.sparse.linalg.cg(
      lambda change: seen(pull(target.doubtful * change)[0]), seen(missing),
      maxiter=_SLOPE_STEPS)
  return lax.stop_gradient(target.doubtful * found)


def _check_layers(layers):
  if len(layers) < 2:
    raise UserError(
        'Feature matching needs a victim that lists its layers, such as c3d '
        f'or lenet; this one lists {len(layers)}. Choose ig for this one.')


def _rows(array):
  return array.reshape(-1, array.shape[-1])


def _whitening(rows, ridge=_RIDGE):
  """The inverse square root of the rows' second moments, [C, C]."""
  values, vectors = jnp.linalg.eigh(rows.T @ rows)
  values = jnp.maximum(values, 0) + ridge * values[-1]
  return (vectors * lax.rsqrt(values)[None]) @ vectors.T


def _norm(array):
  return jnp.sqrt(jnp.sum(array ** 2))
