"""Gauss-Newton steps towards the most likely clip.

Square roots of the prior are taken by reweighted squares, so that a step is a
linear problem: `sum |d|` has the gradient of `sum d^2 / (2 |d_now|)`.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from vidleak_jax.attacks.matching import video_prior
from vidleak_jax.types import Array

LEAST_TRUST = 1e-3  # bound of how far a pixel is expected to move
_SEED = 7           # of the samples
_STEEP = 1.7        # a sigmoid that is near the normal distribution's
_TRIES = 1.0, 0.7, 0.5, 0.3, 0.1, 0.0  # lengths of a step

Tree = TypeVar('Tree')  # of arrays


class Step(NamedTuple):
  """What one step of Gauss-Newton came to."""
  clips: Array
  trust: Array   # [] how far a pixel is expected to move in the next
  value: Array   # [] the objective
  before: Array  # [] the objective before the step
  length: Array  # [] share of the step that was taken; 0: none lowers it
  # [S, B, T, H, W, C] samples of what is left open, for the next; or None
  deviations: Array | None = None
  others: tuple[Array, ...] = ()  # the other unknowns


def newton_step(
    misses: Callable[..., list[Array]], inner: int, clips: Array,
    trust: Array, deviations: Array | None = None,
    others: tuple[Array, ...] = (),
) -> Step:
  """One damped step of Gauss-Newton in the box [0, 1].

  It lowers half the sum of squared misses plus the energy of `video_prior`, of
  the motion and the differences that the clips show.
  Misses that are half-lines count only where a guess violates them, so a long
  step may violate many others: pixels are held near where they are, to `trust`,
  which follows from how much of the last step held.

  Args:
    misses: of clips, and of `others`, over their standard deviation.
    inner: conjugate gradients.
    clips: [B, T, H, W, C].
    trust: [] how far a pixel is expected to move.
    deviations: [S, B, T, H, W, C] of the step before, zeros at first; None
      where the misses leave so little open that the guess is certain.
    others: unknowns besides the pixels, of which no prior is known but what the
      misses say.
  """
  guess = clips, *others
  shown = video_prior.measure(clips, deviations)
  now, forward = jax.linearize(misses, *guess)
  backward = jax.linear_transpose(forward, *guess)
  seen, apart = jax.linearize(
      lambda clips: video_prior.differences(shown, clips), clips)
  gather = jax.linear_transpose(apart, clips)
  weights = [video_prior.WEIGHT / each
             for each in video_prior.lengths(shown, seen)]

  def smooth(differences, weights):
    return gather(tuple(w * d for w, d in zip(weights, differences)))[0]

  def precision(v, weights):
    pulled, *rest = backward(forward(*v))
    return pulled + smooth(apart(v[0]), weights), *rest

  def damped(v):
    pulled, *rest = precision(v, weights)
    return pulled + v[0] / trust ** 2, *rest

  def draw(loose, key, start):
    """Perturb and solve (Papandreou and Yuille, 2010)."""
    noise, blur = (
        [jax.random.normal(key, each.shape, each.dtype)
         for key, each in zip(jax.random.split(key, len(rows)), rows)]
        for key, rows in zip(jax.random.split(key), (now, seen)))
    side, *rest = backward(noise)
    side += gather(tuple(
        jnp.sqrt(w) * each for w, each in zip(loose, blur)))[0]
    still = tuple(map(jnp.zeros_like, others))
    return jax.scipy.sparse.linalg.cg(
        lambda v: precision(v, loose), (side, *rest), x0=(start, *still),
        maxiter=inner)[0][0]

  down, *rest = (-each for each in backward(now))
  move, _ = jax.scipy.sparse.linalg.cg(
      damped, (down - smooth(seen, weights), *rest), maxiter=inner)

  def moved(length):
    clips, *others = (a + length * b for a, b in zip(guess, move))
    return jnp.clip(clips, 0, 1), *others

  values = lax.map(lambda length: _objective(misses, shown, moved(length)),
                   jnp.array(_TRIES, clips.dtype))
  best = jnp.nanargmin(values)
  length = jnp.array(_TRIES, clips.dtype)[best]
  trust = jnp.clip(trust * jnp.where(length >= 0.7, 2.0, jnp.where(
      length >= 0.3, 1.0, 0.3)), LEAST_TRUST, 1.0)
  if deviations is not None:
    # The same draws in each step, so that steps come to rest.
    keys = jax.random.split(jax.random.key(_SEED), len(deviations))
    loose = video_prior.natural_weights(shown, clips)
    deviations = lax.map(
        lambda each: draw(loose, *each), (keys, deviations))
  clips, *rest = moved(length)
  return Step(clips, trust, values[best], values[-1], length, deviations,
              tuple(rest))


def expected_slope(z: Array, tau: Array, sure: float) -> tuple[Array, Array]:
  """What a guess expects of a kinked unit's slope, and the standard deviation.

  Args:
    z: what the units see, of the guess.
    tau: [] error of z, over its root mean square.
    sure: standard deviation far from 0.

  Returns:
    The share of the way from the slope below 0 to that above, and its std.
  """
  size = lax.stop_gradient(jnp.sqrt(jnp.mean(z ** 2) + 1e-20))
  share = jax.nn.sigmoid(_STEEP * z / (tau * size))
  return share, lax.stop_gradient(
      jnp.hypot(jnp.sqrt(share * (1 - share)), sure))


def joint_step(
    misses: Callable[[Array, Tree], list[Array]], inner: int, clips: Array,
    slopes: Tree, stds: Tree, trust: Array, deviations: Array | None = None,
) -> tuple[Step, Tree]:
  """`newton_step` on pixels and slopes, and the slopes after it.

  Args:
    misses: of clips and slopes, over their standard deviation; those of slopes
      over theirs are among them.
    inner: conjugate gradients.
    clips: [B, T, H, W, C].
    slopes: of kinked units.
    stds: of the slopes, in which they are counted.
    trust: as above, and the next one.
    deviations: samples of what is left open.
  """
  leaves, structure = jax.tree.flatten(slopes)

  def moved(moves):
    return jax.tree.map(lambda slope, std, move: slope + std * move, slopes,
                        stds, jax.tree.unflatten(structure, moves))
  step = newton_step(
      lambda clips, *moves: misses(clips, moved(moves)), inner, clips, trust,
      deviations, tuple(map(jnp.zeros_like, leaves)))
  return step, moved(step.others)


def _objective(misses, shown, guess):
  return sum(jnp.sum(r ** 2) for r in misses(*guess)) / 2 + video_prior.energy(
      shown, guess[0])
