"""A match anchored on what the head's gradient gives away exactly.

For one clip and cross-entropy the head's gradient tells its own input h and
dL/dh without any iteration (`closed_form.dense`). Two things about the layer
below are then known exactly, and say more than a distance between gradients:

  its output:  linear(W, x) + b = z,  z the inverse activation of h
  its kernel's gradient, sum dz dlinear/dW(x) = dW,  with dz = dL/dh f'(z)

where x, the layer's input, is a function of the guess. Both are linear in x and
first order in the guess: a step costs one forward and one backward pass. The
second is whitened by dz's own second moments, so that every output channel
counts, however little it moved the loss.
"""

import jax
import jax.numpy as jnp
from jax import lax

from vidleak_jax.attack.closed_form.activations import INVERTIBLE
from vidleak_jax.attack.match import Term
from vidleak_jax.types import Array, Layer, UserError

_RIDGE = 1e-7  # of the largest eigenvalue, when whitening


def anchored_match(layers: tuple[Layer, ...]) -> Term:
  """The match for messages of one clip each.

  Args:
    layers: a victim's, the dense head last.

  Returns:
    A term: the relative squared error of the output plus that of the kernel's
    gradient.

  Raises:
    UserError: the victim does not list at least two layers.
  """
  if len(layers) < 2:
    raise UserError(
        'The anchored match needs a victim that lists its layers, such as c3d '
        'or lenet. Choose attack.name=ig for this one.')
  *below, layer, head = layers

  def term(guess, leak):
    params, update = leak.params, leak.update
    known, slope = _above(head, params, update)
    x = guess.clips.reshape(-1, *layers[0].in_shape)
    for each in below:
      x = each.activate(_affine(each, params, x))
    z = _affine(layer, params, x)
    if layer.activation in INVERTIBLE:
      inverse = INVERTIBLE[layer.activation]
      target = inverse.inverse(known)
      output = _relative(z - target, target)
      dz = slope * inverse.slope(known)
    else:  # the sign of what is lost has to come from the guess
      output = _relative(layer.activate(z) - known, known)
      dz = lax.stop_gradient(slope * _slope(layer, z))
    kernel = params[layer.name]['kernel']
    _, pull = jax.vjp(lambda kernel: layer.linear(kernel, x), kernel)
    rows = _rows(pull(dz)[0])
    goal = _rows(update[layer.name]['kernel'])
    white = _whitening(_rows(dz))
    return output + _relative((rows - goal) @ white, goal @ white)
  return term


def _above(head, params, update) -> tuple[Array, Array]:
  """The layer's output after its activation, and dL/d that."""
  error = update[head.name]['bias']  # dL/dlogits of one clip
  features = update[head.name]['kernel'] @ error / jnp.vdot(error, error)
  slope = params[head.name]['kernel'] @ error
  shape = (1, *head.in_shape)
  return features.reshape(shape), slope.reshape(shape)


def _affine(layer, params, x):
  own = params[layer.name]
  return layer.linear(own['kernel'], x) + own['bias']


def _slope(layer, z):
  return jax.jvp(layer.activate, (z,), (jnp.ones_like(z),))[1]


def _rows(array):
  return array.reshape(-1, array.shape[-1])


def _whitening(rows):
  """The inverse square root of the rows' second moments, [C, C]."""
  values, vectors = jnp.linalg.eigh(rows.T @ rows)
  values = jnp.maximum(values, 0) + _RIDGE * values[-1]
  return lax.stop_gradient((vectors * lax.rsqrt(values)) @ vectors.T)


def _relative(difference, target):
  return jnp.sum(difference ** 2) / jnp.sum(target ** 2)
