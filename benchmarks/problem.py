"""The work all of them do: one clip's gradient, to be matched by its cosine."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vidleak_jax import defenses, federated, victims
from vidleak_jax.attack import invert, match
from vidleak_jax.types import Batch, Guess, Leak, Params, Victim
from vidleak_jax.victims.c3d import PRESETS

_NUM_CLASSES = 10
_FORWARD_PASSES = 7  # the floor of one step, in FLOPs


class Problem(NamedTuple):
  """Arrays are NumPy's; `update` is that of the leak's only message."""
  victim: Victim
  strides: tuple[tuple[int, ...], ...]  # of each convolution
  leak: Leak
  params: Params
  update: Params
  clip: np.ndarray   # [T, H, W, C] the private one
  guess: np.ndarray  # [T, H, W, C] where gradients are compared
  label: int
  learning_rate: float


def build(
    clip_shape: tuple[int, ...], preset: str, lowering: str
) -> Problem:
  """A `c3d` with GELU and 10 classes, and the gradient of a random clip."""
  rng = np.random.default_rng(0)
  clip, guess = rng.uniform(size=(2, *clip_shape)).astype(np.float32)
  victim = _victim(clip_shape, preset, lowering)
  params = victim.init(jax.random.key(0))
  batch = Batch(clip[None], np.array([3], np.int32))
  leak = federated.send(
      federated.client(victim.loss), params, federated.split(batch, 'clip'),
      defenses.build(jax.random.key(0)))
  host = jax.tree.map(np.asarray, (params, leak.update))
  return Problem(
      victim, tuple(strides for _, strides in PRESETS[preset]), leak, host[0],
      jax.tree.map(lambda leaf: leaf[0], host[1]), clip, guess, 3, 0.1)


def attack(problem: Problem) -> invert.Attack:
  """Cosine and Adam, nothing else."""

  def start(key, template):
    clips = jax.random.normal(key, template.clips.shape)
    return template._replace(clips=clips)

  term = match.gradient_match(problem.victim.loss, match.cosine)
  return invert.gradient_inversion(
      invert.weighted_sum(1, match=(1.0, term)),
      optax.adam(problem.learning_rate),
      start=start, project=lambda guess: guess)


def gradient(problem: Problem) -> np.ndarray:
  """Of our objective, at the guess."""
  return _gradient(problem, match.gradient_match(
      problem.victim.loss, match.cosine))


def plain_gradient(problem: Problem, preset: str) -> np.ndarray:
  """The same by double backward through XLA's own convolutions."""
  loss = _victim(problem.clip.shape, preset, 'lax').loss
  return _gradient(problem, match.update_match(jax.grad(loss), match.cosine))


def gap(gradient: np.ndarray, reference: np.ndarray) -> float:
  """How far apart two gradients are, relative to the second's norm."""
  return float(np.linalg.norm(gradient - reference)
               / np.linalg.norm(reference))


def flops(problem: Problem) -> float:
  """Of one step of one restart, at least: counted from the layers' shapes."""
  total = 0
  for layer in problem.victim.layers:
    kernel = problem.params[layer.name]['kernel']
    out = jax.eval_shape(
        layer.linear, kernel, jnp.zeros((1, *layer.in_shape))).shape
    total += 2 * math.prod(kernel.shape[:-1]) * math.prod(out)
  return float(_FORWARD_PASSES * total)


def _victim(clip_shape, preset, lowering):
  return victims.build('c3d', clip_shape, _NUM_CLASSES, preset=preset,
                       activation='gelu', lowering=lowering)


def _gradient(problem, term):
  leak = Leak(problem.params, problem.update, None)
  labels = jnp.array([problem.label], jnp.int32)
  slope = jax.jit(jax.grad(lambda clips: term(Guess(clips, labels), leak)))
  return np.asarray(slope(jnp.asarray(problem.guess[None])))[0]
