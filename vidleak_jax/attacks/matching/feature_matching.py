"""Feature matching: exact targets from the head's gradient.

For one clip and cross-entropy the head's gradient tells its own input h and
dL/dh without any iteration (`analytic.dense`). Two things about the layer below
are then known exactly, and say more than a distance between gradients:

  its output:             linear(W, x) + b = z,  z the inverse activation of h
  its kernel's gradient:  sum dz dlinear/dW(x) = dW,  with dz = dL/dh f'(z)

where x, the layer's input, is a function of the guess. Both are linear in x and
first order in the guess: a step costs one forward and one backward pass. The
second is whitened by dz's own second moments, so that every output channel
counts, however little it moved the loss.

Where a layer's equations outnumber its inputs, `targets` solves them first and
the match is held against the layer below (layer peeling). Training makes that
matter: slopes of leaky units, 0.01 each, hide half of the directions from a
match further up. A recurrent layer is always solved first (`recurrent`).
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vidleak_jax import trees
from vidleak_jax.attacks.analytic import linear_solvers, per_message, recurrent
from vidleak_jax.attacks.analytic.activations import INVERTIBLE
from vidleak_jax.attacks.base import Problem
from vidleak_jax.attacks.matching import batch_features
from vidleak_jax.attacks.matching.iterative import Iterative
from vidleak_jax.attacks.matching.match import Term
from vidleak_jax.attacks.matching.recipe import Priors
from vidleak_jax.attacks.surrogate import midpoint_surrogate
from vidleak_jax.options import option
from vidleak_jax.types import (
  Array,
  Guess,
  Layer,
  Leak,
  Target,
  UserError,
  Victim,
  attempt,
)

_RIDGE = 1e-7  # of the largest eigenvalue, when whitening
_SURPLUS = 1.25     # equations for each unknown; with fewer, some stay open
_AGREEMENT = 1e-3   # of two solutions; where directions stay open it is 1
_RESIDUAL = 1e-4    # of the equations; rounding leaves 1e-6
_TOLERANCE = 1e-8   # of least squares
_LARGEST_BATCH = 64  # clips of one update that are told apart
# After several local steps, found on clips of photo_motion's training split:
_ERROR = 0.05           # relative error of the kernel's gradient
_KERNEL_WEIGHT = 0.03   # of its equations beside the features'
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


@dataclasses.dataclass(frozen=True)
class FeatureMatching(Iterative):
  """Matches exact targets from the head's gradient.

  Total variation that fades away takes the place of the prior. Networks that
  are plain chains of layers; batches are separated at the head first.

  >>> FeatureMatching(num_steps=300).prior_schedule
  'geometric'
  """
  name: ClassVar[str] = 'feature_matching'
  cost: ClassVar[int] = 30
  num_steps: int = option(1000, 'of each restart', low=1, high=10**9)
  priors: Priors = option(Priors(1.0, 1.0, 0.0, 0.0), 'weights')
  prior_schedule: str = option(
      'geometric', 'how they fall',
      choices=('constant', 'cosine', 'geometric', 'steps'))
  learning_rate: float = option(0.1, 'after the warm-up', above=0, high=1e6,
                                traced=True)
  beta2: float = option(0.99, "Adam's memory", above=0, below=1, traced=True)
  coarse: float = option(0.0, 'share of coarse steps', low=0, high=1,
                         traced=True)

  def requires(self, victim: Victim, leak: Leak) -> list[str]:
    """See `Attack.requires`."""
    reasons = []
    public = leak.public
    if public.batch_size > min(victim.num_classes - 1, _LARGEST_BATCH):
      reasons.append(
          f'batches of {public.batch_size} cannot be separated by a head of '
          f'{victim.num_classes} classes; up to '
          f'{min(victim.num_classes - 1, _LARGEST_BATCH)} can')
    if len(victim.layers) < 2:
      reasons.append('it needs a network that is a plain chain of layers and '
                     'activations, such as c3d or lenet')
    elif 'bias' not in trees.named(leak.params, victim.layers[-1].name):
      reasons.append('it needs a bias in the last dense layer, whose gradient '
                     'separates the feature from its error')
    return reasons

  def prepare(self, problems: Sequence[Problem]) -> list[Target | UserError]:
    """See `Iterative.prepare`: peels layers while they are determined.

    A batch is separated at the head first, a weight change is taken as a
    gradient at a point between both weights (SME, ICML 2023).
    """
    leaks = [problem.leak for problem in problems]
    if leaks[0].public.batch_size == 1 and (
        leaks[0].public.federated.algorithm == 'fedsgd'):
      return targets(problems[0].victim.layers, leaks)
    return [attempt(separated, problem) for problem in problems]

  def templates(self, problem: Problem, target: Target) -> Guess:
    """See `Iterative.templates`: the clips of a batch come by their labels."""
    if isinstance(target.evidence, dict):
      return super().templates(problem, target)
    leak = problem.leak
    found = getattr(target.evidence, 'target', target.evidence)
    shape = leak.num_updates, leak.public.batch_size, *leak.public.clip_shape
    return Guess(np.zeros(shape, np.float32), np.asarray(found.labels))

  def term(self, victim: Victim, leak: Leak) -> Term:
    """See `Iterative.term`."""
    one = feature_match(victim.layers)
    several = batch_features.feature_match(victim.layers)
    about = batch_features.feature_match(
        victim.layers, exact=False, kernel_weight=_KERNEL_WEIGHT)

    def term(guess, target):
      seen = target.evidence
      if isinstance(seen, dict):
        return one(guess, target)
      if isinstance(seen, About):
        return about(guess.clips, seen.target)
      return several(guess.clips, seen)
    return term


def feature_match(layers: tuple[Layer, ...]) -> Term:
  """Returns the match for updates of one clip each.

  It is the relative squared error of a layer's output plus that of its
  kernel's gradient, whitened; `targets` says of which layer.

  Args:
    layers: a victim's, the dense head last.
  """
  names = [layer.name for layer in layers]

  def term(guess, target):
    (name, seen), = target.evidence.items()
    *below, layer = layers[:names.index(name) + 1]
    params = target.params
    x = guess.clips.reshape(-1, *layers[0].in_shape)
    for each in below:
      x = each.activate(_affine(each, params, x))
    z = _affine(layer, params, x)
    known, slope = seen.output[None], seen.slope[None]
    if layer.activation in INVERTIBLE:
      inverse = INVERTIBLE[layer.activation]
      goal = inverse.inverse(known)
      output = _relative(z - goal, goal)
      dz = slope * inverse.slope(known)
    else:  # the sign of what is lost has to come from the guess
      output = _relative(layer.activate(z) - known, known)
      dz = lax.stop_gradient(slope * _slope(layer, z))
    kernel = trees.named(params, layer.name)['kernel']
    _, pull = jax.vjp(lambda kernel: layer.linear(kernel, x), kernel)
    rows = _rows(pull(dz)[0])
    white = _whitening(_rows(dz))
    return output + _relative((rows - seen.kernel) @ white, seen.kernel @ white)
  return term


def targets(
    layers: tuple[Layer, ...], leaks: Sequence[Leak], max_steps: int = 4000
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

  Returns:
    One target a leak; how deep one goes does not depend on the others. An
    error where a recurrent layer cannot be solved.
  """
  # leak's index -> (known, dL/d known), leaves [M, ...]
  known = {i: jax.tree.map(lambda leaf: leaf[:, 0], jax.vmap(
      functools.partial(_above, layers[-1], leak.params))(leak.update))
           for i, leak in enumerate(leaks)}
  depths, found = [len(layers) - 2] * len(leaks), dict(known)
  for depth in range(len(layers) - 2, 0, -1):
    if known and not _determinable(layers[depth], leaks[0], known):
      break
    known = _descend(layers[depth], leaks, known, max_steps)
    for i, values in known.items():
      found[i], depths[i] = _float32(values), depth - 1
  if recurrent.is_recurrent(layers[-2]):
    return [UserError(_NO_FEATURES) if depths[i] == len(layers) - 2
            else _target(layers[depths[i]], leak, found[i])
            for i, leak in enumerate(leaks)]
  return [_target(layers[depths[i]], leak, found[i])
          for i, leak in enumerate(leaks)]


def separated(problem: Problem) -> Target:
  """Returns the targets of batches, or of several local steps.

  Raises:
    UserError: where the head does not separate the clips.
  """
  victim, leak = problem.victim, problem.leak
  public, found, notes = leak.public, [], True
  for i in range(leak.num_updates):
    params, gradient = leak.params, trees.take(leak.update, i)
    error = 0.0
    if public.federated.algorithm == 'fedavg':
      near = midpoint_surrogate(
          params, gradient, victim.head, public.batch_size,
          local_steps=public.federated.local_steps,
          local_learning_rate=public.federated.local_learning_rate)
      params, gradient = near.params, near.gradient
      notes &= near.one_step
      error = 0.0 if near.one_step else _ERROR
    labels = None if leak.labels is None else leak.labels[i]
    found.append(batch_features.prepare(
        victim.layers, params, gradient, public.batch_size, labels=labels,
        error=error)[0])
  stacked = trees.stack(found)
  return Target(leak.params, stacked if notes else About(stacked))


def _target(layer, leak, values) -> Target:
  kernel = np.asarray(trees.named(leak.update, layer.name)['kernel'])
  rows = kernel.reshape(len(kernel), -1, kernel.shape[-1])
  return Target(leak.params, {layer.name: Seen(*values, rows)})


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


def _descend(layer, leaks, known, max_steps):
  """`known` one layer lower, of those leaks whose messages are all certain."""
  if not known:
    return {}
  messages = _join([
      (_repeated(trees.named(leaks[i].params, layer.name), leaks[i].update),
       trees.named(leaks[i].update, layer.name), *values)
      for i, values in known.items()])
  solved, down, sure = per_message.over_messages(
      functools.partial(_down, layer, max_steps), np.zeros(()),
      _float64(messages))
  ends = np.cumsum([len(values[0]) for values in known.values()])[:-1]
  parts = zip(known, *(np.split(x, ends) for x in (solved, down, sure)))
  return {i: (x, dx) for i, x, dx, certain in parts if certain.all()}


def _down(layer, max_steps, _, message):
  """(input of one layer, dL/d input, whether both are certain)."""
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
      (rows * (f.inverse(h) - _lifted(params['bias'], h)), seen * update),
      begin, scale, max_steps=max_steps, tolerance=_TOLERANCE)
                   for begin in (start, noise))
  apart = _rms(first.x - second.x) / _rms(first.x)
  sure = (apart < _AGREEMENT) & (first.residual < _RESIDUAL)
  return first.x, jax.vjp(apply, first.x)[1](dz)[0], sure


def _above(head, params, update) -> tuple[Array, Array]:
  """The layer's output after its activation, and dL/d that."""
  seen = trees.named(update, head.name)
  error = seen['bias']  # dL/dlogits of one clip
  features = seen['kernel'] @ error / jnp.vdot(error, error)
  slope = trees.named(params, head.name)['kernel'] @ error
  shape = (1, *head.in_shape)
  return features.reshape(shape), slope.reshape(shape)


def _affine(layer, params, x):
  own = trees.named(params, layer.name)
  z = layer.linear(own['kernel'], x)
  return z + _lifted(own['bias'], z)


def _lifted(bias, like):
  """The bias with as many axes as what it is added to."""
  return bias.reshape((1,) * (like.ndim - 1) + bias.shape)


def _slope(layer, z):
  return jax.jvp(layer.activate, (z,), (jnp.ones_like(z),))[1]


def _rows(array):
  return array.reshape(-1, array.shape[-1])


def _whitening(rows):
  """The inverse square root of the rows' second moments, [C, C]."""
  values, vectors = jnp.linalg.eigh(rows.T @ rows)
  values = jnp.maximum(values, 0) + _RIDGE * values[-1]
  return lax.stop_gradient((vectors * lax.rsqrt(values)[None]) @ vectors.T)


def _relative(difference, target):
  return jnp.sum(difference ** 2) / jnp.sum(target ** 2)


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


def _float64(tree):
  return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)
