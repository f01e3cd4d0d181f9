"""One step of R-GAP: the input of a layer whose output is known.

The two linear systems of `rgap`, in float64, for one message. What is known of
the output h is known to about the same error everywhere, so the first system's
rows are weighted by f'(z) / rms(h): the error of f^-1 near saturation then
weighs nothing. From float32 gradients that is worth 40 dB.
"""

import functools

import jax
import jax.numpy as jnp

from vidleak_jax.attacks.analytic import linear_solvers
from vidleak_jax.attacks.analytic.activations import INVERTIBLE

DOUBT = 8.0   # median errors from a kink within which an output is in doubt
_DARK = 0.3   # level of pixels below which a clip is as good as black
_PASSES = 2   # that settle on which side of a kink outputs lie


def step_down(layer, rest, max_steps, tolerance, constants, message):
  """Returns (the input's `Solution`, dL/d input, directions left open).

  The probe's right-hand side comes from random signs u (in scaled columns).
  What the solution misses of them, |u - u'|^2, is the number of directions
  that the equations leave open, in expectation, and 0 if there is none.

  Args:
    layer: with an activation that has an inverse.
    rest: what unknown entries of the input are taken for.
    max_steps: of conjugate gradients.
    tolerance: at which they stop.
    constants: the layer's params, and the relative error below which it is in
      doubt on which side of a kink an output lies.
    message: (its gradients, h, dL/dh, whether it is the probe).
  """
  params, blur = constants
  kernel, bias = params['kernel'], params['bias']
  update, h, dh, probe = message
  f = INVERTIBLE[layer.activation]
  step = functools.partial(
      _solve_layer, layer, max_steps, tolerance, kernel, bias,
      update['kernel'], dh=dh, probe=probe)
  start = jnp.full(layer.in_shape, rest)
  doubt = (jnp.abs(h) < blur * _rms(h)) & f.kinked & ~probe
  solution, dz, missed = step(h, start, doubt)
  for _ in range(_PASSES if f.kinked else 0):
    z = _apply(layer, kernel, solution.x) + bias
    side = jnp.where(z >= 0, 0.0, -1e-300)
    h = jnp.where(doubt & ((h >= 0) != (z >= 0)), side, h)
    error = jnp.nanmedian(
        jnp.where(doubt, jnp.nan, jnp.abs(z - f.inverse(h))))
    doubt &= jnp.abs(z) < DOUBT * error
    again = jnp.where(probe, start, solution.x)
    solution, dz, missed = step(h, again, doubt)
  return solution, _input_gradient(layer, kernel, start, dz), missed


def _solve_layer(layer, max_steps, tolerance, kernel, bias, kernel_update,
                 h, start, doubt, *, dh, probe):
  """The two linear systems: (`Solution`, dL/dz, directions left open).

  Where it is in doubt on which side of a kink an output lies, so is its slope:
  its row weighs as on the flat side, and as dL/dz of its channel is not known,
  the kernel's equations for that channel wait. One wrong slope would upset all.
  """
  f = INVERTIBLE[layer.activation]
  slope = f.slope(h)
  dz = dh * slope
  rows = jnp.where(doubt, f.slope(-1.0), slope) / _rms(h)
  clear = ~jnp.any(doubt, axis=range(doubt.ndim - 1))
  seen = clear * arrived(kernel_update) / jnp.maximum(
      _rms(kernel_update), _DARK * jnp.linalg.norm(dz))

  def forward(x):
    return (rows * _apply(layer, kernel, x),
            seen * _kernel_gradient(layer, kernel.shape, x, dz))

  # Squares of the column norms: every kernel entry meets every input at most
  # once per output, so squaring the factors squares the matrix.
  squares = (_input_gradient(layer, kernel ** 2, start, rows ** 2)
             + _input_gradient(layer, seen ** 2, start, dz ** 2))
  scale = jax.lax.rsqrt(jnp.maximum(squares, 1e-12 * jnp.max(squares)))
  signs = scale * jax.random.rademacher(
      jax.random.key(0), layer.in_shape, start.dtype)
  z = f.inverse(h)
  # Rounding is in proportion to z: of a black frame z - b is nothing else.
  target, size = (
      jax.tree.map(functools.partial(jnp.where, probe), forward(signs),
                   (rows * a, seen * kernel_update)) for a in (z - bias, z))
  solution = linear_solvers.least_squares(
      forward, target, jnp.where(probe, 0.0, start), scale, size=size,
      max_steps=max_steps, tolerance=tolerance)
  missed = jnp.sum(((solution.x - signs) / scale) ** 2)
  return solution, dz, missed


def arrived(kernel_update):
  """Returns which entries are known: not those that a defence has zeroed.

  Where all of an input channel's are zero, the channel is: a black frame's.
  """
  there = kernel_update != 0
  dark = ~jnp.any(there, axis=(*range(there.ndim - 2), there.ndim - 1),
                  keepdims=True)
  return there | dark


def _apply(layer, kernel, x):
  return layer.linear(kernel, x[None])[0]


def _input_gradient(layer, kernel, x, dz):
  transpose = jax.linear_transpose(lambda x: _apply(layer, kernel, x), x)
  return transpose(dz)[0]


def _kernel_gradient(layer, shape, x, dz):
  kernel = jax.ShapeDtypeStruct(shape, x.dtype)
  transpose = jax.linear_transpose(lambda k: _apply(layer, k, x), kernel)
  return transpose(dz)[0]


def _rms(a):
  return jnp.sqrt(jnp.mean(a ** 2)) + 1e-300
