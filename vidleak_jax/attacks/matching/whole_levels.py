"""From a clip that is nearly right to the exact one: video has 256 levels.

What is left of an error lies where the equations say little: at borders, which
fewer units see, and in fine texture. `video_prior` says what is likely there.
Elsewhere the clip is known to a fraction of a level, and there its pixels are
whole levels, exactly. Held at those, the pixels that are left have more
equations than before, so that more of them come near to levels, round after
round.

Where a clip is near to levels shows in the clip itself: distances to the
nearest level are 0.29 at random.
"""

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vidleak_jax.attacks.analytic.rounding import TOP
from vidleak_jax.attacks.matching import most_likely
from vidleak_jax.runtime import programs
from vidleak_jax.types import Array

Equations = Callable[[Array, Any], Any]  # (clips, target) -> relative misfits

# Chosen on clips of photo_motion's train split. In levels:
_NEAR = 0.2       # distance to a level, of a pixel and of those around it
HELD = 0.05       # how far a pixel that is near a level may move in a round
# Relative errors of the equations that are assumed. The first leaves it to the
# prior what the equations hardly say; float32 rounding leaves 1e-6.
_ERRORS = 3e-3, 3e-5
_WORST = 3e-2     # the first, of a clip that meets the equations as badly
_FALL = 0.7       # in a round
_MOST = 0.5       # of the pixels, on levels: no prior has to help
NEARLY = 0.98     # of them, from which the last are tried one by one
_LAST = 64        # pixels that are
_LEAST = 3e-6     # relative error at which they strain towards their levels
_ROUNDING = 1e-11  # sum of squares that float32 leaves; 1e-12, as a rule
_TRUST = 0.1      # how far a pixel is expected to move in the first round
_AROUND = 3, 5, 5  # frames, rows and columns around a pixel
_FEWEST = 32      # numbers in there, to judge by


class Settled(NamedTuple):
  """What became of a clip."""
  clips: np.ndarray  # [B, T, H, W, C] float32 in [0, 1]
  share: float       # of the pixels that lie on levels surely; 0 to 1
  misfit: float      # sum of squares of the equations


def settle(
    equations: Equations, target: Any, clips: np.ndarray, *, rounds: int,
    inner_steps: int, key: Hashable, hold: bool = True,
    go_on: Callable[[int, float], bool] = lambda done, share: True,
) -> Settled:
  """Returns the likely clips that the equations lead to, on whole levels.

  But for rounding, it never returns clips that meet the equations less well
  than those given.

  Args:
    equations: each misfit relative to its target, so that squares add up to
      the square of a relative error.
    target: their constants, a pytree.
    clips: [B, T, H, W, C] in [0, 1], nearly right.
    rounds: at most; each is one step of Gauss-Newton.
    inner_steps: conjugate gradients in each.
    key: what `equations` depends on besides its arguments: equal keys share
      their compiled programs.
    hold: whether the clips are known to have 256 levels.
    go_on: told of rounds that are done and of the share; False ends it.
  """
  def misfit(clips, target):
    return sum(jnp.sum(r ** 2) for r in jax.tree.leaves(
        equations(clips, target)))

  def move(inner, pixels, target, anchor, held, error, trust):
    def misses(pixels):
      rows = jax.tree.leaves(equations(pixels, target))
      return [r * (r.size ** 0.5 / error) for r in rows] + [
          held_misses(pixels, anchor, held)]
    return most_likely.newton_step(misses, inner, pixels, trust)

  measure, advance = programs.default().get(
      ('whole levels', key), lambda: (
          jax.jit(misfit), jax.jit(move, static_argnums=0)))
  start = pixels = np.asarray(clips, np.float32)
  first = float(measure(start, target))
  levels, sure = _levels(pixels, hold)
  error = _ERRORS[1] if sure.mean() > _MOST else np.clip(
      first ** 0.5, _ERRORS[0], _WORST)
  trust = _TRUST
  for done in range(rounds):
    share = sure.mean()
    if sure.all() or not go_on(done, float(share)):
      break
    step = advance(inner_steps, pixels, target, levels, sure,
                   jnp.float32(error), jnp.float32(trust))
    pixels, trust = np.asarray(step.clips), step.trust
    levels, sure = _levels(pixels, hold)
    if error <= _ERRORS[1] and sure.mean() <= share:
      break
    if not step.length and step.trust <= most_likely.LEAST_TRUST:
      break  # nothing near lowers the objective
    error = max(_FALL * error, _ERRORS[1])
  if sure.mean() > NEARLY and float(measure(levels, target)) > _ROUNDING:
    # Some are held on a wrong level. All may move by one, to tell which.
    free = advance(
        inner_steps, levels, target, levels, np.full_like(levels, HELD),
        jnp.float32(_LEAST), jnp.float32(_TRUST)).clips
    levels = try_last(
        levels[None], np.asarray(free - levels)[None],
        lambda each: np.array([float(measure(each[0], target))]))[0]
  answers = (start, pixels, levels) if sure.any() else (start, pixels)
  misfits = [first, *(float(measure(each, target)) for each in answers[1:])]
  # Between levels a clip can fit the rounding of the gradient itself.
  exact = sure.any() and misfits[-1] < _ROUNDING
  best = -1 if exact else int(np.argmin(misfits))
  return Settled(answers[best], float(sure.mean()), misfits[best])


def try_last(
    levels: np.ndarray, strain: np.ndarray,
    measure: Callable[[np.ndarray], np.ndarray],
    go_on: Callable[[], bool] = lambda: True,
) -> np.ndarray:
  """Returns levels after those that strain most were tried one level on.

  Args:
    levels: [M, ...] of M updates.
    strain: [M, ...] which way each pixel would go, and how far.
    measure: levels -> [M], what is to fall.
    go_on: False ends it.
  """
  best, updates = measure(levels), np.arange(len(levels))
  strain = strain.reshape(len(levels), -1)
  for pixels in np.argsort(-np.abs(strain), 1)[:, :_LAST].T:
    if not go_on():
      break
    trial = levels.copy()
    flat = trial.reshape(strain.shape)
    flat[updates, pixels] = np.clip(flat[updates, pixels] + np.sign(
        strain[updates, pixels]) / TOP, 0, 1)
    found = measure(trial)
    better = found < best
    levels = np.where(better.reshape(-1, *[1] * (levels.ndim - 1)), trial,
                      levels)
    best = np.minimum(found, best)
  return levels


def held_misses(pixels: Array, levels: Array, held: Array) -> Array:
  """Returns how far pixels that are held have moved, over what is allowed."""
  return held * (pixels - levels) * (TOP / HELD)


def _levels(pixels, hold):
  levels, sure = map(np.asarray, nearest(pixels))
  return levels, sure if hold else np.zeros_like(sure)


@jax.jit
def nearest(pixels: Array) -> tuple[Array, Array]:
  """(The nearest levels, which pixels surely lie on them), [B, T, H, W, C].

  A pixel is judged by those around it, too. What the box [0, 1] holds at its
  ends is on a level by force, and does not count.
  """
  levels = jnp.rint(pixels * TOP) / TOP
  distance = jnp.abs(pixels - levels) * TOP
  inside = (0.5 / TOP < pixels) & (pixels < 1 - 0.5 / TOP)

  def around(x):
    return lax.reduce_window(jnp.sum(x, -1, keepdims=True), 0.0, lax.add,
                             (1, *_AROUND, 1), (1,) * x.ndim, 'SAME')
  count = around(inside.astype(pixels.dtype))
  square = around(jnp.where(inside, distance ** 2, 0)) / jnp.maximum(count, 1)
  near = (count >= _FEWEST) & (square < _NEAR ** 2)
  return levels, near & (distance < _NEAR)
