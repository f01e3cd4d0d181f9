"""Inverses of the activations that have one."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from vidleak_jax.types import Array


class Inverse(NamedTuple):
  """Of an elementwise activation h = f(z)."""
  inverse: Callable[[Array], Array]  # h -> z
  slope: Callable[[Array], Array]    # h -> f'(z)
  rest: float                        # f(0)
  kinked: bool = False               # f' jumps at 0


_EDGE = 1e-14  # keeps rounding beyond the range of an activation finite
_LEAK = 0.01   # of linen's leaky_relu


def _inside(h, low, high):
  return jnp.clip(h, low + _EDGE, high - _EDGE)


def _logit(h):
  h = _inside(h, 0.0, 1.0)
  return jnp.log(h) - jnp.log1p(-h)


def _inverse_softplus(h):
  h = jnp.maximum(h, _EDGE)
  return h + jnp.log(-jnp.expm1(-h))


INVERTIBLE = {
    'identity': Inverse(lambda h: h, jnp.ones_like, 0.0),
    'leaky_relu': Inverse(
        lambda h: jnp.where(h >= 0, h, h / _LEAK),
        lambda h: jnp.where(h >= 0, 1.0, _LEAK), 0.0, kinked=True),
    'sigmoid': Inverse(
        _logit, lambda h: _inside(h, 0.0, 1.0) * (1 - _inside(h, 0.0, 1.0)),
        0.5),
    'softplus': Inverse(
        _inverse_softplus, lambda h: -jnp.expm1(-jnp.maximum(h, _EDGE)),
        0.6931471805599453),
    'tanh': Inverse(
        lambda h: jnp.arctanh(_inside(h, -1.0, 1.0)),
        lambda h: 1 - _inside(h, -1.0, 1.0) ** 2, 0.0),
}
