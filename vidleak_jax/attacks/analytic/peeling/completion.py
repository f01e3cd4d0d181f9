"""Likely clips where equations do not lead to the exact one.

What the solved blocks show may leave directions open. A prior of video fills
them: maximum a posteriori, with assumed errors that fall from stage to stage.
Where a network is narrow the gradients of the kernels below say more (`lower`).
The answer is near, and often near enough to round.
"""

import functools
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vidleak_jax import files
from vidleak_jax.attacks.analytic.peeling import contrast, pixels
from vidleak_jax.attacks.analytic.peeling import facts as facts_lib
from vidleak_jax.attacks.analytic.peeling import lower as lower_lib
from vidleak_jax.attacks.matching import gauss_newton, most_likely
from vidleak_jax.runtime import programs
from vidleak_jax.victims.introspection.graph import LayerGraph

_FACTS = 0.3   # error of facts, over the stage's: they are nearly linear
_SMOOTH = 0.03  # weight of total variation beside facts alone, over their size
_COARSE = 3, 3, 3, 2, 1, 1  # steps from one colour a frame to all pixels
_CURVED = 0.4    # what a step leaves out, over the square of features' error
_LEAST = 0.01    # error of kernels: products of errors remain
_MORE = 7        # times the conjugate gradients that facts alone need
_ENDED = 0.99    # of the objective: the next stage,
_ENOUGH = 0.8    # where kernels are read


class Progress(NamedTuple):
  """Where the search is after a step."""
  num_done: int  # stages
  num_stages: int
  cost: float


def complete(
    graph: LayerGraph, num_clips: int, parts: Sequence[pixels.Part],
    errors: Sequence[float], num_steps: int, inner_steps: int,
    tell: Callable[[Progress], None], *, blank: np.ndarray | None = None,
    place: Path | None = None, channel_axis: int, key: Hashable,
) -> tuple[np.ndarray, float]:
  """Returns likely clips [B, T, H, W, C], and their facts' relative misfit.

  Args:
    graph: the network.
    num_clips: B.
    parts: what each round shows; `lower` where kernels are to be read.
    errors: of each stage, falling.
    num_steps: of Gauss-Newton in each, at most.
    inner_steps: conjugate gradients in each of these.
    tell: called after each step; what it raises ends the search.
    blank: of `contrast.unseen`: contrast is held.
    place: file of the clips after each stage, from which it goes on.
    channel_axis: of all outputs.
    key: of the network, `Victim.key`.
  """
  def told(num_done, cost):
    tell(Progress(num_done, 1 + len(errors), cost))

  ended, clips = _read(place)
  if clips is None:
    start = pixels.recover(
        graph, num_clips, parts, gauss_newton.Options(
            steps=_COARSE, inner_steps=inner_steps),
        lambda step: told(0, step.cost), smooth=_SMOOTH, blank=blank,
        channel_axis=channel_axis, key=key).pixels
    clips = jnp.asarray(start, jnp.float32)
    _write(place, ended, clips)
  kinds, belows = pixels.structure(graph, parts)
  unders = [part.lower and facts_lib.until(graph, set(part.lower.cotangents))
            for part in parts]
  data = gauss_newton.to_float32((pixels.numbers(parts, belows), [
      under and part.lower._replace(gradient={
          node.op.kernel_path: part.lower.gradient[node.op.kernel_path]
          for node in under.nodes if node.kind == 'conv'})
      for part, under in zip(parts, unders)]))

  def of_kernels(error):
    """(error of features, what a step leaves out of kernels' gradients)."""
    error = jnp.maximum(error, _LEAST)
    return jnp.sqrt(error / _CURVED), error

  def expected(data, error, clips):
    return [under and lower_lib.expected_slopes(
        under, numbers[0], clips, of_kernels(error)[0])
            for numbers, under in zip(data[0], unders)]

  def misses(data, error, clips, slopes):
    found = [] if blank is None else [contrast.row(clips, blank)]
    for numbers, lower, below, under, kind, each in zip(
        *data, belows, unders, kinds, slopes):
      found += [r / (_FACTS * error) for r in pixels.misses(
          numbers, below, kind, clips, channel_axis)]
      if under:
        kernels, signs = lower_lib.misses(
            under, numbers[0], lower, clips, each, *of_kernels(error),
            channel_axis)
        found += kernels + signs
    return found

  def start_of(data, error, clips):
    return [each and each[0] for each in expected(data, error, clips)]

  def step(inner, data, error, clips, slopes, trust):
    stds = [each and each[1] for each in expected(data, error, clips)]
    return most_likely.joint_step(
        functools.partial(misses, data, error), inner, clips, slopes, stds,
        trust)

  def misfit(data, clips):
    rows = [row for numbers, below, kind in zip(data[0], belows, kinds)
            for row in pixels.misses(numbers, below, kind, clips, channel_axis)]
    return jnp.sqrt(sum(jnp.sum(r ** 2) for r in rows) / sum(
        r.size for r in rows))

  expect, move, measure = programs.default().get(
      ('completion', key, kinds, num_clips, unders[0] is None,
       blank is None),
      lambda: (jax.jit(start_of), jax.jit(step, static_argnums=0),
               jax.jit(misfit)))
  has_kernels = unders[0] is not None
  more, enough = (_MORE, _ENOUGH) if has_kernels else (1, _ENDED)
  for done, error in enumerate(errors[ended:], ended + 1):
    found = _descend(
        functools.partial(move, more * inner_steps, data, jnp.float32(error)),
        clips, expect(data, jnp.float32(error), clips), num_steps, enough,
        functools.partial(told, done))
    if has_kernels and not measure(data, found) <= _FACTS * error:
      break  # no longer solved: kernels and facts pull the guess apart
    clips = found
    _write(place, done, clips)
  return np.asarray(clips, np.float64), float(measure(data, clips))


def _descend(move, clips, slopes, num_steps, enough, tell):
  """Returns clips after steps, until these hardly lower the objective."""
  trust = jnp.float32(0.3)
  for _ in range(num_steps):
    step, slopes = move(clips, slopes, trust)
    clips, trust = step.clips, step.trust
    tell(float(step.value))
    if step.length == 1 and step.value > enough * step.before:
      break
  return clips


def _read(place):
  """(stages that have ended, the clips after them or None)."""
  if place is None or not place.exists():
    return 0, None
  with np.load(place) as stored:
    return int(stored['ended']), jnp.asarray(stored['clips'])


def _write(place, ended, clips):
  if place is not None:
    files.write_arrays(place, ended=np.array(ended), clips=np.asarray(clips))
