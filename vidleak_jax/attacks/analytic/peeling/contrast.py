"""The contrast of a clip, which a network of norms does not see.

A norm of the data's own statistics behind the first convolution takes off again
what a clip's contrast multiplies: with x0 the colour that the convolution sees
as zero, `x0 + a (x - x0)` has the same features for all a > 0, and the same
gradient. A prior likes small differences, so a search for likely clips would
end with a = 0: it is held. What tells a in the end are the levels of video:
pixels of the right contrast are multiples of 1 / 255.
"""

import jax
import jax.numpy as jnp
import numpy as np

from vidleak_jax.attacks.analytic import rounding
from vidleak_jax.attacks.analytic.peeling import facts
from vidleak_jax.attacks.analytic.peeling.blocks import Network
from vidleak_jax.attacks.analytic.peeling.units import Leaves
from vidleak_jax.types import Array
from vidleak_jax.victims.introspection.graph import run

_HELD = 0.25   # of the largest contrast there is: most clips have more
_STIFF = 1e4   # how firmly, against all pixels of a prior
_SEEN = 1e-2   # change of the features by another contrast, relative
_SPAN = 0.25, 8.0  # how much more contrast than held is looked for
_OUTSIDE = 0.05    # of [0, 1]: by so much what is found may be wrong
_PROBED = 20_000   # numbers of a clip
_TURN = 0.3    # of the fastest number from one contrast to the next, in radians
_FITS = 0.25   # mean cosine of numbers near levels, at least; chance has less
_FIRST = 0.7   # of the best: even levels fit at twice the contrast as well


def unseen(network: Network, leaves: Leaves) -> np.ndarray | None:
  """Returns x0 [C], or None where the network sees the contrast.

  Args:
    network: the victim.
    leaves: its parameters by path.
  """
  if network.stem and network.stem.is_affine:
    return None
  graph = network.graph
  entry = next(node for node in graph.nodes if node.kind == 'conv').inputs[0]

  def at(node, clip):
    values = run(facts.until(graph, {node}), leaves, clip[None])
    return np.moveaxis(values[node], network.channel_axis, -1)

  black, white = (at(entry, np.full(graph.clip_shape, level))
                  for level in (0.0, 1.0))
  if black.shape[1:] != graph.clip_shape:
    return None  # not one number for each pixel
  blank = (black / (black - white))[0, 0, 0, 0]
  clip = np.random.default_rng(0).uniform(size=graph.clip_shape)
  less, more = (at(network.bottom, blank + share * (clip - blank))
                for share in (1.0, 2.0))
  apart = np.linalg.norm(more - less) / np.linalg.norm(less)
  return blank if apart < _SEEN else None


def start(shape: tuple[int, ...], blank: np.ndarray) -> np.ndarray:
  """Returns a clip [..., C] of one colour that has the contrast held."""
  return np.broadcast_to(blank + _held(blank), shape)


def row(clips: Array, blank: np.ndarray) -> Array:
  """Returns a residual [] of clips that do not have the contrast held."""
  rest = clips - jnp.asarray(blank, jnp.result_type(clips))
  return _STIFF * (jnp.sqrt(jnp.mean(rest ** 2)) / _held(blank) - 1)


def by_levels(clips: np.ndarray, blank: np.ndarray) -> np.ndarray | None:
  """Returns clips [..., C] of the contrast that puts them on levels.

  Args:
    clips: of any contrast.
    blank: [C] see `unseen`.

  Returns:
    None where no contrast does.
  """
  rest = clips - blank
  apart = np.abs(rest).max()
  most = np.min((np.where(rest > 0, 1 - blank, blank) + _OUTSIDE) /
                np.maximum(np.abs(rest), 1e-9))
  near = _SPAN[0], min(_SPAN[1], most)
  if not near[0] < near[1] or not apart:
    return None
  count = rounding.TOP * 2 * np.pi * apart * (near[1] - near[0]) / _TURN
  numbers = rest.reshape(-1, rest.shape[-1])
  rng = np.random.default_rng(0)
  numbers = rng.permutation(numbers)[:_PROBED // numbers.shape[-1]]
  fit = jax.jit(lambda share: jnp.mean(jnp.cos(
      rounding.TOP * 2 * jnp.pi * (blank + share * numbers))))
  shares = np.linspace(*near, int(count) + 2)
  fits = np.asarray(jax.lax.map(fit, jnp.asarray(shares)))
  if fits.max() < _FITS:
    return None
  first = np.argmax(fits >= _FIRST * fits.max())
  around = slice(first, first + int(2 * np.pi / _TURN))
  share = shares[around][np.argmax(fits[around])]
  # The same once more, between the neighbours of the best.
  step = shares[1] - shares[0]
  finer = np.linspace(share - step, share + step, 201)
  share = finer[np.argmax(np.asarray(jax.lax.map(fit, jnp.asarray(finer))))]
  return blank + share * rest


def _held(blank):
  return _HELD * float(np.maximum(blank, 1 - blank).max())
