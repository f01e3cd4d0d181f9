"""What a recurrent layer saw at each step, from its own gradient.

A GRU or LSTM sees x_1 ... x_T and puts out h_1 ... h_T. With the errors d_t of
what enters its gates from the input, and e_t from the state, its gradients are

  dW = sum x_t (x) d_t,    dU = sum h_{t-1} (x) e_t,

so the columns of dW span the inputs and those of dU the outputs but the last.
The first state is zero: of all x in the first span, only x_1 leads to an output
in the second. That is D - (T - 1) equations for T unknowns, an output having D
entries. The output h_1 then gives x_2 in the same way, and so on; x_T has to
lead to h_T, which the head's gradient tells.
"""

import jax
import jax.numpy as jnp
from jax import lax

from vidleak_jax.types import Array, Layer, Params

CELLS = 'gru', 'lstm'
_SURPLUS = 1.25   # equations for each unknown
_STARTS = 8       # for each frame, the one before and around it
_STEPS = 50       # of Levenberg and Marquardt, a frame
_ERROR = 1e-3     # of each step and of the gradient; rounding leaves 1e-4


def is_recurrent(layer: Layer) -> bool:
  """Whether a layer's `activation` is a cell, its `activate` one step of it."""
  return layer.activation in CELLS


def is_determinable(layer: Layer, width: int) -> bool:
  """Whether the outputs' `width` suffices for so many steps."""
  steps = layer.in_shape[0]
  return width - (steps - 1) >= _SURPLUS * steps


def inputs(
    layer: Layer, params: Params, update: Params, output: Array, slope: Array
) -> tuple[Array, Array, Array]:
  """The inputs of one message's clip; call it in float64.

  Args:
    layer: with `in_shape` (T, ...) and `activate` a step of the cell,
      `(state [2, B, D], gates, recurrent) -> state`.
    params: of the layer: dense layers 'input' and 'hidden'.
    update: the same tree.
    output: h_T, [D].
    slope: dL/dh_T, [D].

  Returns:
    ([T, ...], dL/d that, whether both are certain).
  """
  steps = layer.in_shape[0]
  seen = _span(update['input']['kernel'], steps)
  reached = _span(update['hidden']['kernel'], steps - 1)
  short = seen.T @ params['input']['kernel']

  def gates(mix):
    return mix @ short + params['input']['bias']

  def advance(state, gates):
    recurrent = state[0] @ params['hidden']['kernel']
    return layer.activate(state, gates, recurrent + params['hidden']['bias'])

  mixes, misses = _mixes(
      lambda state, mix: advance(state, gates(mix)[None]),
      lambda state: _outside(reached, state[0, 0]), output, steps)
  rest = jnp.zeros((2, 1, len(output)), output.dtype)
  d = jax.grad(lambda gates: jnp.vdot(slope, lax.scan(
      lambda state, g: (advance(state, g[None]), None), rest, gates
  )[0][0, 0]))(gates(mixes))
  goal = seen.T @ update['input']['kernel']
  error = jnp.linalg.norm(mixes.T @ d - goal) / jnp.linalg.norm(goal)
  slopes = d @ params['input']['kernel'].T
  return ((mixes @ seen.T).reshape(layer.in_shape),
          slopes.reshape(layer.in_shape),
          jnp.maximum(error, jnp.max(misses)) < _ERROR)


def _mixes(advance, outside, output, steps):
  """What the steps saw as coefficients, [T, T], and each one's error, [T].

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
    return (advance(state, mix), mix), (mix, errors[best])

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


def _solve(residual, start):
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
  x, _ = lax.fori_loop(0, _STEPS, body, (start, damping))
  return x, jnp.linalg.norm(residual(x))
