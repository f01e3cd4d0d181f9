"""What feature matching is held against: exact facts about one layer.

From the last convolution down, layer by layer, the inputs are solved for while
they are determined (layer peeling). Batches are separated at the head first,
and a weight change is taken as a gradient between both weights.
"""

import functools
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import log_ndtr

from vidleak_jax import trees
from vidleak_jax.attacks.analytic import linear_solvers, per_message, recurrent
from vidleak_jax.attacks.analytic.activations import INVERTIBLE, Inverse
from vidleak_jax.attacks.base import Problem
from vidleak_jax.attacks.matching import batch_features
from vidleak_jax.attacks.surrogate import Surrogate, midpoint_surrogate
from vidleak_jax.models.layers import by_channel
from vidleak_jax.types import Array, Layer, Leak, Target, UserError

_SURPLUS = 1.25     # equations for each unknown; with fewer, some stay open
_AGREEMENT = 1e-3   # of two solutions; where directions stay open it is 1
_RESIDUAL = 1e-4    # of the equations; rounding leaves 1e-6
_TOLERANCE = 1e-8   # of least squares
# Of what a recurrent layer saw:
_EXACT = 3e-5       # relative error that does not count
_SIGMAS = 5.0       # an error's bound, in standard deviations
# After several local steps, chosen on one clip of photo_motion's train split:
ERROR = 0.01           # relative error of the kernel's gradient
_NO_FEATURES = (
    'The gradient of the recurrent layer does not tell what it saw in each '
    'frame: too many frames for its width, noise, or a defence. Choose '
    'attack.name=ig, or fewer frames.')


class About(NamedTuple):
  """Targets that hold to a few percent: those of several local steps."""
  target: batch_features.FeatureTarget


class Seen(NamedTuple):
  """What an update says of one layer, exactly; leaves [M, ...] of M updates."""
  output: Array  # [*shape] after the activation
  slope: Array   # [*shape] dL/d output
  kernel: Array  # [N, C] the kernel's gradient, a row for each tap and input
  doubt: 'Doubt | None' = None  # below a recurrent layer


class Doubt(NamedTuple):
  """How well a layer's output is known, before the activation; [M, ...]."""
  weight: Array  # [*shape] 1: to rounding
  # [T, T, ...] directions of each frame, of weighed errors, over the root of
  # the share that is taken out of them
  blend: Array
  spread: Array  # [*shape] standard deviation after the activation


def targets(
    layers: tuple[Layer, ...], leaks: Sequence[Leak], max_steps: int = 4000,
    *, key: Hashable | None = None,
) -> list[Target | UserError]:
  """Returns what `feature_match` is held against, layers peeled where possible.

  From the last convolution down, layer by layer, by least squares in float64:
  `linear(W, x) = z - b` and the kernel's gradient, both linear in x. A layer is
  determined if from two starts the same x comes out and the equations hold, in
  all updates of a leak; noise and defences therefore end the descent.

  Args:
    layers: a victim's, the dense head last.
    leaks: of equal shapes, updates of one clip each.
    max_steps: of conjugate gradients, a layer.
    key: of the victim, `Victim.key`: victims of equal keys share the programs
      that solve their layers. None: the layers themselves.

  Returns:
    One target a leak; how deep one goes does not depend on the others. An
    error where a recurrent layer cannot be solved.
  """
  # leak's index -> (known, dL/d known), leaves [M, ...]
  known = {i: jax.tree.map(lambda leaf: leaf[:, 0], jax.vmap(
      functools.partial(_above, layers[-1], leak.params))(leak.update))
           for i, leak in enumerate(leaks)}
  depths, solved = [len(layers) - 2] * len(leaks), dict(known)
  for depth in range(len(layers) - 2, 0, -1):
    if known and not _determinable(layers[depth], leaks[0], known):
      break
    known = _descend(layers[depth], leaks, known, max_steps, key)
    for i, values in known.items():
      solved[i], depths[i] = _float32(values), depth - 1
  if recurrent.is_recurrent(layers[-2]):
    return [UserError(_NO_FEATURES) if depths[i] == len(layers) - 2
            else _target(layers[depths[i]], leak, solved[i])
            for i, leak in enumerate(leaks)]
  return [_target(layers[depths[i]], leak, solved[i])
          for i, leak in enumerate(leaks)]


def certain(output: Array, doubt: Doubt) -> Array:
  """Returns an output's misfit [1, T, ...], less what is open."""
  rows = (output * doubt.weight).reshape(len(doubt.blend), -1)
  blend = doubt.blend.reshape(*doubt.blend.shape[:2], -1)
  shares = jnp.einsum('tkf,tf->tk', blend, rows)
  return (rows - jnp.einsum('tkf,tk->tf', blend, shares)).reshape(output.shape)


def likely_slope(inverse: Inverse, seen: Seen, z: Array, off: Array) -> Array:
  """Returns the likely slopes of units with a kink at 0, [1, T, ...].

  What is known of an output and the guess each have an error; the guess's is as
  large as what it misses of all outputs. Far from the truth it hardly counts,
  and an output near 0 comes most likely from the flat half, which holds many.
  A guess that alone decided would keep a wrong side: the kernel's gradient then
  fits nothing but that guess.

  Args:
    inverse: of the activation.
    seen: with `doubt`.
    z: [1, T, ...] of the guess, before the activation.
    off: [1, T, ...] what it misses.
  """
  z, error = lax.stop_gradient((z, _rms(off)))
  known, spread = seen.output[None], seen.doubt.spread[None]

  def chance(side):
    slope = inverse.slope(side)
    variance = spread ** 2 + (slope * error) ** 2
    miss = known - slope * z
    mean = z + slope * error ** 2 / variance * miss
    return log_ndtr(side * mean * jnp.sqrt(variance) / (error * spread)) - (
        miss ** 2 / variance + jnp.log(variance)) / 2
  return inverse.slope(chance(1.0) - chance(-1.0))


def separated(problem: Problem) -> Target:
  """Returns the targets of batches, or of several local steps.

  Raises:
    UserError: where the head does not separate the clips.
  """
  leak = problem.leak
  each = [of_message(problem, i) for i in range(leak.num_updates)]
  stacked = trees.stack([target for target, _ in each])
  exact = all(near is None or near.one_step for _, near in each)
  return Target(leak.params, stacked if exact else About(stacked))


def of_message(problem: Problem, index: int
               ) -> tuple[batch_features.FeatureTarget, Surrogate | None]:
  """Returns one update's targets, and where they hold after local training.

  Raises:
    UserError: where the head does not separate the clips.
  """
  victim, leak = problem.victim, problem.leak
  public, near, error = leak.public, None, 0.0
  params, gradient = leak.params, trees.take(leak.update, index)
  labels = None if leak.labels is None else leak.labels[index]
  if public.federated.algorithm == 'fedavg':
    near = midpoint_surrogate(
        params, gradient, victim.head, public.batch_size, public.federated,
        labels=labels)
    params, gradient = near.params, near.gradient
    error = 0.0 if near.one_step else ERROR
  target, _ = batch_features.prepare(
      victim.layers, params, gradient, public.batch_size, labels=labels,
      error=error, unmixed=near and near.unmixed)
  return target, near


def _target(layer, leak, values) -> Target:
  kernel = np.asarray(trees.named(leak.update, layer.name)['kernel'])
  rows = kernel.reshape(len(kernel), -1, kernel.shape[-1])
  doubt = jax.vmap(functools.partial(_doubt, layer))(
      values[0], *values[2:]) if len(values) > 2 else None
  return Target(leak.params, {layer.name: Seen(*values[:2], rows, doubt)})


def _doubt(layer, output, spread, blend) -> Doubt:
  """What is not known of an output, of `recurrent.Inputs`."""
  frames = len(blend)
  total = jnp.sqrt(spread ** 2 + jnp.sum(blend ** 2, 1))
  noise = _SIGMAS * total
  inverse = INVERTIBLE.get(layer.activation, INVERTIBLE['identity'])
  slopes = inverse.slope(output - noise), inverse.slope(output + noise)
  # Errors before the activation, in units of what counts as exact.
  scale = 1 / (jnp.minimum(*slopes) * _EXACT * _rms(inverse.inverse(output)))
  weight = lax.rsqrt(1 + (scale * spread) ** 2)
  _, sizes, basis = jnp.linalg.svd(
      (blend * (scale * weight)[:, None]).reshape(frames, frames, -1),
      full_matrices=False)
  out = jnp.sqrt(1 - lax.rsqrt(1 + sizes ** 2))
  return Doubt(weight, (out[..., None] * basis).reshape(blend.shape), total)


def _determinable(layer, leak, known) -> bool:
  """Whether a layer's equations could suffice for its input."""
  outputs = next(iter(known.values()))[0][0].size
  if recurrent.is_recurrent(layer):
    return recurrent.is_determinable(layer, outputs)
  if layer.shifted:
    return False
  entries = trees.named(leak.update, layer.name)['kernel'][0].size
  return layer.activation in INVERTIBLE and (
      outputs + entries >= _SURPLUS * np.prod(layer.in_shape))


def _descend(layer, leaks, known, max_steps, key):
  """`known` one layer lower, of those leaks whose messages are all certain."""
  if not known:
    return {}
  messages = _join([
      (_repeated(trees.named(leaks[i].params, layer.name), leaks[i].update),
       trees.named(leaks[i].update, layer.name), *values[:2])
      for i, values in known.items()])
  solved, sure = per_message.over_messages(
      functools.partial(_down, layer, max_steps), np.zeros(()),
      trees.to_float64(messages), key=(
          'layer input', max_steps, layer if key is None else key, layer.name))
  ends = np.cumsum([0, *(len(values[0]) for values in known.values())])
  return {i: tuple(each[a:b] for each in solved)
          for i, a, b in zip(known, ends[:-1], ends[1:], strict=True)
          if sure[a:b].all()}


def _down(layer, max_steps, _, message):
  """((input of one layer, dL/d input, ...), whether they are certain)."""
  params, update, h, dh = message
  if recurrent.is_recurrent(layer):
    return recurrent.inputs(layer, *message)
  update = update['kernel']
  kernel, f = params['kernel'], INVERTIBLE[layer.activation]
  slope = f.slope(h)
  dz = dh * slope
  rows, seen = slope / _rms(h), 1 / _rms(update)

  def apply(x, kernel=kernel):
    return layer.linear(kernel, x[None])[0]

  def rowwise(x, rows, seen, dz, kernel=kernel):
    _, pull = jax.vjp(lambda kernel: apply(x, kernel), kernel)
    return rows * apply(x, kernel), seen * pull(dz)[0]

  start = jnp.zeros(layer.in_shape, h.dtype)
  # Squares of the columns' norms, by the same sums with all factors squared.
  squares, = jax.linear_transpose(
      lambda x: rowwise(x, rows ** 2, seen ** 2, dz ** 2, kernel ** 2), start)(
          (jnp.ones_like(h), jnp.ones_like(update)))
  scale = lax.rsqrt(jnp.maximum(squares, 1e-12 * jnp.max(squares)))
  noise = _rms(h) * jax.random.normal(jax.random.key(0), start.shape, h.dtype)
  first, second = (linear_solvers.least_squares(
      lambda x: rowwise(x, rows, seen, dz),
      (rows * (f.inverse(h) - by_channel(params['bias'], h)), seen * update),
      begin, scale, max_steps=max_steps, tolerance=_TOLERANCE)
                   for begin in (start, noise))
  apart = _rms(first.x - second.x) / _rms(first.x)
  sure = (apart < _AGREEMENT) & (first.residual < _RESIDUAL)
  return (first.x, jax.vjp(apply, first.x)[1](dz)[0]), sure


def _above(head, params, update) -> tuple[Array, Array]:
  """The layer's output after its activation, and dL/d that."""
  seen = trees.named(update, head.name)
  error = seen['bias']  # dL/dlogits of one clip
  features = seen['kernel'] @ error / jnp.vdot(error, error)
  slope = trees.named(params, head.name)['kernel'] @ error
  shape = (1, *head.in_shape)
  return features.reshape(shape), slope.reshape(shape)


def _rms(array):
  return jnp.sqrt(jnp.mean(array ** 2)) + 1e-300


def _repeated(tree, update):
  """A tree's leaves once for each message of an update."""
  count = len(jax.tree.leaves(update)[0])
  return jax.tree.map(lambda leaf: np.repeat(leaf[None], count, 0), tree)


def _join(trees):
  return jax.tree.map(lambda *leaves: np.concatenate(leaves), *trees)


def _float32(tree):
  return jax.tree.map(lambda leaf: leaf.astype(np.float32), tree)
