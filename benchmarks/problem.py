"""The work all of them do: one clip's gradient, to be matched by its cosine."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.extend.core import jaxprs_in_params

from vidleak_jax import victims
from vidleak_jax.attacks.matching import inversion, match
from vidleak_jax.clients import observe
from vidleak_jax.models import layers
from vidleak_jax.types import Guess, Params, Target, UserError, Victim

# The paper's LeNet has sigmoids; all others are smooth where ReLU is not.
_ACTIVATIONS = {'lenet': 'sigmoid'}
_NUM_CLASSES = 10
_FORWARD_PASSES = 7  # the floor of one step, in FLOPs


class Problem(NamedTuple):
  """Arrays are NumPy's; `update` is the client's only one."""
  network: tuple[str, str]  # name and preset
  activation: str
  victim: Victim
  target: Target  # evidence [1, ...]
  params: Params
  update: Params
  clip: np.ndarray   # [T, H, W, C] the private one
  guess: np.ndarray  # [T, H, W, C] where gradients are compared
  label: int
  learning_rate: float


def build(
    clip_shape: tuple[int, ...], network: tuple[str, str], lowering: str
) -> Problem:
  """A victim with 10 classes, and the gradient of a random clip.

  Args:
    clip_shape: (T, H, W, C).
    network: name and preset.
    lowering: of its convolutions.
  """
  rng = np.random.default_rng(0)
  clip, guess = rng.uniform(size=(2, *clip_shape)).astype(np.float32)
  victim = _victim(clip_shape, network, lowering)
  params = victim.init(jax.random.key(0))
  leak = observe(victim, params, clip[None], [3])
  host = jax.tree.map(np.asarray, (params, leak.update))
  return Problem(
      network, _activation(network), victim,
      Target(leak.params, leak.update), host[0],
      jax.tree.map(lambda leaf: leaf[0], host[1]), clip, guess, 3, 0.1)


def parse(case: str) -> tuple[tuple[int, ...], int]:
  """Reads '8x32x32:8' as ((8, 32, 32, 3), 8)."""
  try:
    shape, count = case.split(':')
    frames, height, width = (int(size) for size in shape.split('x'))
    return (frames, height, width, 3), int(count)
  except ValueError as error:
    raise UserError(f'--cases has {case!r}; it should look like 8x32x32:8, '
                    'frames x height x width : restarts.') from error


def attack(problem: Problem) -> inversion.Attack:
  """Cosine and Adam, nothing else."""

  def start(key, template):
    clips = jax.random.normal(key, template.clips.shape)
    return template._replace(clips=clips)

  term = match.gradient_match(problem.victim.loss, match.cosine,
                              problem.victim.pack)
  return inversion.gradient_inversion(
      inversion.weighted_sum(1, match=(1.0, term)),
      optax.adam(problem.learning_rate),
      start=start, project=lambda guess: guess)


def gradient(problem: Problem) -> np.ndarray:
  """Of our objective, at the guess."""
  return _gradient(problem, match.gradient_match(
      problem.victim.loss, match.cosine))


def plain_gradient(problem: Problem) -> np.ndarray:
  """The same by double backward through XLA's own convolutions."""
  loss = _victim(problem.clip.shape, problem.network, 'lax').loss
  return _gradient(problem, match.update_match(jax.grad(loss), match.cosine))


def gap(gradient: np.ndarray, reference: np.ndarray) -> float:
  """How far apart two gradients are, relative to the second's norm."""
  return float(np.linalg.norm(gradient - reference)
               / np.linalg.norm(reference))


def flops(problem: Problem) -> float:
  """Of one step of one restart, at least: counted from the products' shapes."""
  clips = jnp.asarray(problem.clip[None])
  plain = _victim(problem.clip.shape, problem.network, 'lax')
  with layers.plain_layers():  # a loop's body would count once
    forward = jax.make_jaxpr(plain.logits)(problem.params, clips)
  return float(_FORWARD_PASSES * _products(forward.jaxpr))


def _products(jaxpr) -> int:
  """Two FLOPs for each multiplication of the matrix products in it."""
  total = 0
  for eqn in jaxpr.eqns:
    total += sum(map(_products, jaxprs_in_params(eqn.params)))
    taken = [var.aval.shape for var in eqn.invars]
    if eqn.primitive.name == 'dot_general':
      (contracted, _), _ = eqn.params['dimension_numbers']
      summed = math.prod(taken[0][axis] for axis in contracted)
    elif eqn.primitive.name == 'conv_general_dilated':
      outputs = eqn.params['dimension_numbers'].rhs_spec[0]
      summed = math.prod(taken[1]) // taken[1][outputs]
    else:
      continue
    total += 2 * summed * eqn.outvars[0].aval.size
  return total


def _activation(network):
  return _ACTIVATIONS.get(network[0], 'gelu')


def _victim(clip_shape, network, lowering):
  name, preset = network
  options = {'lowering': lowering} if name != 'vivit' else {}
  return victims.build(name, clip_shape, _NUM_CLASSES, preset=preset,
                       activation=_activation(network), **options)


def _gradient(problem, term):
  target = Target(problem.params, problem.update)
  labels = jnp.array([problem.label], jnp.int32)
  slope = jax.jit(jax.grad(lambda clips: term(Guess(clips, labels), target)))
  return np.asarray(slope(jnp.asarray(problem.guess[None])))[0]
