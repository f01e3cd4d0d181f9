"""What a recurrent layer saw at each step, from its own gradient.

A GRU or LSTM sees x_1 ... x_T and puts out h_1 ... h_T. With the errors d_t of
what enters its gates from the input, and e_t from the state, its gradients are

  dW = sum x_t (x) d_t,    dU = sum h_{t-1} (x) e_t,

so the columns of dW span the inputs and those of dU the outputs but the last.
The first state is zero: of all x in the first span, only x_1 leads to an output
in the second. That is D - (T - 1) equations for T unknowns, an output having D
entries. The output h_1 then gives x_2 in the same way, and so on; x_T has to
lead to h_T, which the head's gradient tells.

The errors of one step are those of the next, and early frames hardly move the
loss: |d_1| is 1e-3 of |d_T| after 16 steps, and what is left of float32 there
is little. So all steps are then solved for together, from all gradients, each
weighed by its rounding.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from vidleak_jax.types import Array, Layer, Params

CELLS = 'gru', 'lstm'
_SURPLUS = 1.25   # equations for each unknown
_STARTS = 8       # for each frame, the one before and around it
_STEPS = 50       # of Levenberg and Marquardt, a frame
_ERROR = 1e-3     # of the gradients; rounding leaves 1e-6
# Of float32, on two clips of photo_motion's train split: the relative error of
# what enters the gates at a step; of a gradient's mean entry, in sums over a
# step's numbers and alone.
_ROUNDING = 3e-7
_SUMMED = 4e-7
_ALONE = 1e-7
_ROUNDS = 3       # of all steps together, the weights of the last round's
_JOINT_STEPS = 10  # of Levenberg and Marquardt in each


def is_recurrent(layer: Layer) -> bool:
  """Whether a layer's `activation` is a cell, its `activate` one step of it."""
  return layer.activation in CELLS


def is_determinable(layer: Layer, width: int) -> bool:
  """Whether the outputs' `width` suffices for so many steps."""
  steps = layer.in_shape[0]
  return width - (steps - 1) >= _SURPLUS * steps


def inputs(
    layer: Layer, params: Params, update: Params, output: Array, slope: Array
) -> tuple['Inputs', Array]:
  """The inputs of one message's clip; call it in float64.

  Args:
    layer: with `in_shape` (T, ...) and `activate` a step of the cell,
      `(state [2, B, D], gates, recurrent) -> state`.
    params: of the layer: dense layers 'input' and 'hidden'.
    update: the same tree.
    output: h_T, [D].
    slope: dL/dh_T, [D].

  Returns:
    (What is known of them, whether that is certain).
  """
  steps = layer.in_shape[0]
  seen = _span(update['input']['kernel'], steps)
  reached = _span(update['hidden']['kernel'], steps - 1)
  short = seen.T @ params['input']['kernel']

  def gates(mix):
    return mix @ short + params['input']['bias']

  def advance(state, gates, error=0.0):
    recurrent = state[0] @ params['hidden']['kernel']
    return layer.activate(
        state, gates, recurrent + params['hidden']['bias'] + error)

  rest = jnp.zeros((2, 1, len(output)), output.dtype)

  def run(mixes):
    def outputs(gates, errors):
      return lax.scan(lambda state, each: (
          (new := advance(state, each[0][None], each[1][None])), new[0, 0]),
                      rest, (gates, errors))[1]
    entering = gates(mixes)
    h, pull = jax.vjp(outputs, entering, jnp.zeros_like(entering))
    return Run(h, *pull(jnp.zeros_like(h).at[-1].set(slope)))

  mixes = _mixes(
      lambda state, mix: advance(state, gates(mix)[None]),
      lambda state: _outside(reached, state[0, 0]), output, steps)
  goal = Sums(output, seen.T @ update['input']['kernel'],
              update['hidden']['kernel'], update['input']['bias'],
              update['hidden']['bias'])
  squares = jnp.mean(update['input']['kernel'] ** 2, 1)
  mixes, root = _jointly(run, mixes, goal, jnp.mean(squares))
  now = run(mixes)
  found = _sums(mixes, now)
  error = jnp.max(jnp.stack([
      jnp.linalg.norm(a - b) / jnp.linalg.norm(b)
      for a, b in zip(found[:3], goal[:3], strict=True)]))
  spread = jnp.diag(jnp.linalg.pinv(now.d @ now.d.T))[:, None] * squares
  known = Inputs(mixes @ seen.T, now.d @ params['input']['kernel'].T,
                 _ALONE * jnp.sqrt(spread), root @ seen.T)
  return Inputs(known.value.reshape(layer.in_shape),
                known.slope.reshape(layer.in_shape),
                known.spread.reshape(layer.in_shape),
                known.blend.reshape(steps, -1, *layer.in_shape[1:])
                ), error < _ERROR


class Inputs(NamedTuple):
  """What a recurrent layer saw, and how well that is known.

  The error of step t is `spread[t] * n + sum_k blend[t, k] m_k`, with standard
  normal numbers n, one for each entry, and m.
  """
  value: Array   # [T, ...]
  slope: Array   # [T, ...] dL/d value
  spread: Array  # [T, ...]
  blend: Array   # [T, T, ...]


class Run(NamedTuple):
  """All steps, [T, ...]."""
  h: Array  # outputs
  d: Array  # errors of what enters from the inputs
  e: Array  # errors of what enters from the states


class Sums(NamedTuple):
  """What an update says of a run."""
  h: Array         # [D] the last output
  inputs: Array    # [T, G] gradient of the inputs' kernel, in the inputs' span
  hidden: Array    # [D, G] gradient of the states' kernel
  input_bias: Array   # [G]
  hidden_bias: Array  # [G]


def _sums(mixes, run):
  return Sums(run.h[-1], mixes.T @ run.d, run.h[:-1].T @ run.e[1:],
              run.d.sum(0), run.e.sum(0))


def _jointly(run: Callable[[Array], Run], mixes: Array, goal: Sums,
             square: Array) -> tuple[Array, Array]:
  """What the steps saw as coefficients, [T, T], from a start that is near.

  And a root of the covariance of each step's, [T, T, T], a row a direction.

  Args:
    run: all steps from coefficients.
    mixes: [T, T].
    goal: what the sums are to be.
    square: the mean one of an entry of the inputs' kernel's gradient.
  """
  steps = len(mixes)
  left, _, right = jnp.linalg.svd(goal.hidden, full_matrices=False)
  left, right = left[:, :steps - 1], right[:steps - 1].T

  def weigh(mixes):
    """Inverse roots of the covariances that rounding makes, column by column.

    A step's error is relative to its own d_t or e_t: small for early steps.
    """
    now = run(mixes)
    d, e = (_ROUNDING ** 2 * jnp.mean(each ** 2, 1) for each in now[1:])
    before = now.h[:-1]

    def root(covariance, square):
      covariance += _SUMMED ** 2 * square * jnp.eye(len(covariance))
      return jnp.linalg.inv(jnp.linalg.cholesky(covariance))
    hidden = (before.T * e[1:]) @ before
    entry = jnp.mean(goal.hidden ** 2)
    return (root((mixes.T * d) @ mixes, square), root(hidden, entry),
            root(left.T @ hidden @ left, entry),
            lax.rsqrt(d.sum()), lax.rsqrt(e.sum()))

  def misses(mixes, weights):
    inputs, rows, columns, input_bias, hidden_bias = weights
    off = jax.tree.map(jnp.subtract, _sums(mixes, run(mixes)), goal)
    # Of h and e within the spans of their gradient, the rest is second order.
    across = left.T @ off.hidden
    return jnp.concatenate([each.ravel() for each in (
        off.h / (_ROUNDING * jnp.sqrt(jnp.mean(goal.h ** 2))),
        inputs @ off.inputs, rows @ (off.hidden @ right),
        columns @ (across - (across @ right) @ right.T),
        off.input_bias * input_bias, off.hidden_bias * hidden_bias)])

  def again(_, mixes):
    weights = weigh(mixes)
    return _solve(lambda x: misses(x.reshape(steps, steps), weights),
                  mixes.ravel(), _JOINT_STEPS)[0].reshape(steps, steps)
  mixes = lax.fori_loop(0, _ROUNDS, again, mixes)
  weights = weigh(mixes)
  slope = jax.jacfwd(lambda x: misses(x.reshape(steps, steps), weights))(
      mixes.ravel())
  covariance = jnp.linalg.pinv(slope.T @ slope, rcond=1e-14, hermitian=True)
  each = covariance.reshape((steps,) * 4)[
      jnp.arange(steps), :, jnp.arange(steps)]
  values, vectors = jnp.linalg.eigh(each)
  return mixes, jnp.sqrt(jnp.maximum(values, 0))[..., None] * vectors.mT


def _mixes(advance, outside, output, steps):
  """What the steps saw as coefficients, [T, T], one after the other.

  Args:
    advance: `(state, coefficients) -> state`.
    outside: of a state, what no output may have.
    output: the last.
    steps: T.
  """
  def missed(mix, state, final):
    new = advance(state, mix)
    return jnp.where(final, (new[0, 0] - output) / jnp.linalg.norm(output),
                     outside(new))

  def step(carry, final):
    state, mix = carry
    tried, errors = jax.vmap(lambda start: _solve(
        lambda mix: missed(mix, state, final), start))(mix + around)
    best = jnp.argmin(errors)
    mix = tried[best]
    return (advance(state, mix), mix), mix

  rest = jnp.zeros((2, 1, len(output)), output.dtype)
  # If all were the same: near enough, as the frames of a video are.
  still, _ = _solve(
      lambda mix: lax.fori_loop(0, steps, lambda _, s: advance(s, mix), rest)
      [0, 0] - output, jnp.zeros(steps, output.dtype))
  around = jnp.linalg.norm(still) / steps ** 0.5 * jax.random.normal(
      jax.random.key(0), (_STARTS, steps), output.dtype).at[0].set(0)
  return lax.scan(step, (rest, still), jnp.arange(steps) == steps - 1)[1]


def _outside(basis, vector):
  """What of a vector, relative to it, is not in a span."""
  return (vector - basis @ (basis.T @ vector)) * lax.rsqrt(
      jnp.vdot(vector, vector))


def _span(matrix, rank):
  """The first columns of an orthonormal basis, [n, rank]."""
  return jnp.linalg.svd(matrix, full_matrices=False)[0][:, :rank]


def _solve(residual, start, steps=_STEPS):
  """(answer, its residual's norm), a few unknowns: Levenberg-Marquardt."""
  def body(_, state):
    x, damping = state
    r, slope = residual(x), jax.jacfwd(residual)(x)
    normal = slope.T @ slope
    scale = jnp.diag(normal) + 1e-12 * jnp.trace(normal)
    new = x - jnp.linalg.solve(normal + damping * jnp.diag(scale), slope.T @ r)
    better = jnp.sum(residual(new) ** 2) < jnp.sum(r ** 2)
    return (jnp.where(better, new, x),
            jnp.where(better, damping / 5, damping * 5).clip(1e-14, 1e14))
  damping = jnp.asarray(1e-2, start.dtype)
  x, _ = lax.fori_loop(0, steps, body, (start, damping))
  return x, jnp.linalg.norm(residual(x))
