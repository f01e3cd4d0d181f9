"""What Adam, in minibatches, makes of the clips' features at the head.

Adam moves an entry by r sum_t m_t / sqrt(v_t), a function of its gradients that
does not depend on their scale. In the head's column of class k they are

  g_t = sum_b h_bt (p_btk - [k is b's label]) / size,   b in minibatch t,

so a clip's feature h_b shows against those of the clips that share its
minibatches, and its column shows which those are. Weights hardly leave the
line from start to end, which the server knows, so that h_bt is the feature of
a guess at a point of it. The classes that no clip has move alike: some of them
stand for all.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from vidleak_jax import trees
from vidleak_jax.attacks.matching import chain
from vidleak_jax.types import Array, Layer, Params

_ABSENT = 16           # columns that stand for all classes without a clip
_DECAYS = 0.9, 0.999   # of Adam's means, and what it adds to their root
_EPS = 1e-8
_CORNER = 0.3          # misfit, in steps of Adam, below which it is quadratic
_BIAS_WEIGHT = 0.1


class Head(NamedTuple):
  """Some columns of the head, before training and as it moved them."""
  kernel: Array      # [F, C]
  bias: Array        # [C]
  moved: Array       # [F, C] of the kernel, in steps of Adam at full rate
  moved_bias: Array  # [C]
  log_count: Array   # [C] of classes that a column stands for
  labels: Array      # [B] the column of each clip's label
  classes: Array     # [C]


class Path(NamedTuple):
  """Where clips are when a step begins, against the start weights."""
  drift: Array       # [N, B, F] of their features
  log_rest: Array    # [N, B] log of all classes' sum over that of the columns


def read(weights: Params, update: Params, labels: np.ndarray, rate: float,
         key: Array) -> Head:
  """Returns the columns of all labels, and some of the other classes.

  Args:
    weights: of the head: kernel [F, K], bias [K].
    update: what one client sent, of the same shapes.
    labels: [B].
    rate: of Adam.
    key: draws the other classes; consumed.
  """
  present, own = np.unique(labels, return_inverse=True)
  absent = np.setdiff1d(np.arange(len(weights['bias'])), present)
  some = np.asarray(jax.random.permutation(key, absent))[:_ABSENT]
  columns = np.concatenate([present, some])
  counts = np.ones(len(columns))
  counts[len(present):] = len(absent) / max(len(some), 1)
  return Head(*(jnp.asarray(leaf[..., columns] / scale, jnp.float32)
                for tree, scale in ((weights, 1), (update, rate))
                for leaf in (tree['kernel'], tree['bias'])),
              jnp.asarray(np.log(counts), jnp.float32), jnp.asarray(own),
              jnp.asarray(columns))


def path(layers: tuple[Layer, ...], params: Params, update: Params, head: Head,
         clips: Array, num_steps: int) -> Path:
  """Returns where clips are on the line from start to end weights."""
  start, name = chain.features(layers, params, clips), layers[-1].name

  def at(part):
    now = jax.tree.map(lambda w, u: w - part * u, params, update)
    found = chain.features(layers, now, clips)
    own = trees.named(now, name)
    logits = found @ own['kernel'] + own['bias'][None]
    return Path(found - start, jax.nn.logsumexp(logits, -1)
                - _log_sum(head, logits[:, head.classes]))
  return lax.map(at, jnp.arange(num_steps) / num_steps)


def simulate(head: Head, start: Array, along: Path, steps: Array, rate: float,
             edge: Array | float) -> tuple[Array, Array]:
  """Returns how Adam moves the columns, in steps at full rate.

  Args:
    head: the columns.
    start: [B, F] features at the start weights.
    along: the path of the clips.
    steps: [N, size] the clips of each minibatch.
    rate: of Adam.
    edge: gradients below this share of their column's root mean square are
      smoothed where it is differentiated; values are exact.

  Returns:
    (kernel [F, C], bias [C]).
  """
  goals = jnp.eye(len(head.bias))[head.labels]

  def step(carry, now):
    weights, means, squares, sums = carry
    count, rows, drift, rest = now
    found = start[rows] + drift[rows]
    logits = found @ weights[0] + weights[1][None]
    errors = jnp.exp(
        logits - (_log_sum(head, logits) + rest[rows])[:, None]) - goals[rows]
    slopes = [found.T @ errors / len(rows), errors.mean(0)]
    means, squares = (
        optax.tree.update_moment(slopes, old, decay, order)
        for order, (old, decay) in enumerate(
            zip((means, squares), _DECAYS, strict=True), 1))
    mean, square = (
        optax.tree.bias_correction(each, decay, count)
        for each, decay in zip((means, squares), _DECAYS, strict=True))
    moves = [_quotient(m, v, edge ** 2 * jnp.mean(
        g ** 2, 0, keepdims=g.ndim > 1))
             for m, v, g in zip(mean, square, slopes, strict=True)]
    return ([w - rate * move for w, move in zip(weights, moves, strict=True)],
            means, squares,
            [s + move for s, move in zip(sums, moves, strict=True)]), None

  weights = [head.kernel, head.bias]
  none = [jnp.zeros_like(w) for w in weights]
  carry, _ = lax.scan(
      jax.checkpoint(step), (weights, none, none, none),
      (jnp.arange(1.0, len(steps) + 1), steps, *along))
  return tuple(carry[-1])


def misfit(head: Head, start: Array, along: Path, steps: Array, rate: float,
           edge: Array | float = 0.0) -> Array:
  """Returns how far the simulated columns are from those sent, [].

  It grows linearly: where a feature changes its sign, an entry is far off.
  """
  kernel, bias = simulate(head, start, along, steps, rate, edge)
  far = jnp.sqrt((kernel - head.moved) ** 2 + _CORNER ** 2) - _CORNER
  return jnp.mean(far) + _BIAS_WEIGHT * jnp.mean(jnp.abs(
      bias - head.moved_bias))


def better_order(head: Head, start: Array, along: Path, order: np.ndarray,
                 size: int, rate: float) -> tuple[np.ndarray, float]:
  """Returns an order that no exchange of two clips of an epoch improves.

  Args:
    head: the columns.
    start: [B, F] features at the start weights.
    along: the path of the clips.
    order: [epochs, B] to begin with; B a multiple of `size`.
    size: of a minibatch.
    rate: of Adam.

  Returns:
    (order, its misfit).
  """
  steps = len(along.drift)

  def measure(orders):
    return np.asarray(_misfits(
        head, start, along, jnp.asarray(
            orders.reshape(len(orders), -1, size)[:, :steps]), rate))
  best, least, changed = order, float(measure(order[None])[0]), True
  while changed:
    changed = False
    for epoch in range(len(order)):
      tried = _exchanged(best, epoch, size)
      values = measure(tried)
      if values.min() < least * (1 - 1e-6):
        best, least = tried[values.argmin()], float(values.min())
        changed = True
  return best, least


@functools.partial(jax.jit, static_argnums=4)
def _misfits(head, start, along, steps, rate):
  """[orders] the misfit of each."""
  return lax.map(lambda each: misfit(head, start, along, each, rate), steps)


def _exchanged(order, epoch, size):
  """All orders in which two clips of one epoch's minibatches change places."""
  found = []
  for i in range(order.shape[1]):
    for j in range(size * (i // size + 1), order.shape[1]):
      other = order.copy()
      other[epoch, [i, j]] = other[epoch, [j, i]]
      found.append(other)
  return np.stack(found)


def _log_sum(head, logits):
  """Of all classes, about, from the columns."""
  return jax.nn.logsumexp(logits + head.log_count[None], -1)


def _quotient(mean, square, edge):
  """Adam's step, whose derivative is that of a smoother one."""
  smooth = mean * lax.rsqrt(square + lax.stop_gradient(edge) + 1e-20)
  exact = mean / (jnp.sqrt(square) + _EPS)
  return smooth + lax.stop_gradient(exact - smooth)
