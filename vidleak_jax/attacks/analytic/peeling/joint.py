"""A layer's input and the moments of its readers' norms, at once.

Rounds of least squares and moments (`inputs`) go astray where kernels show some
directions badly: an error of the moments comes back larger. Gauss-Newton
follows the moments with the input. With both means of the norm's cotangent sent
by the client, `a = E[gamma dy]` and `b = E[gamma dy whitened]`,

  dW[tap] = sum_p x[p + tap] (gamma dy - a - whitened(x) b)[p] / sigma(x)
  whitened(x) = what the ReLU behind says, where it is on.

Each step is solved by conjugate gradients, which the spectrum of the kernels'
equations preconditions. What no equation shows, all multiples of x and hidden
constants, stays as it comes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vidleak_jax.attacks.analytic.peeling import equations
from vidleak_jax.attacks.analytic.peeling.units import Leaves, Unit
from vidleak_jax.runtime import programs
from vidleak_jax.types import Array

_STEPS = 30        # of Gauss-Newton, at most
_INNER_STEPS = 100  # conjugate gradients in each
_SOLVED = 1e-4     # of a step's residual, relative
_START = 0.1       # damping of the first step, over the preconditioner
_LESS, _MORE = 0.2, 10.0  # factors of the damping after a good, a bad step
_SHORTEST = 0.1    # of a step, before it is given up
_STALLED = 0.99    # of the last cost: the end


class Seen(NamedTuple):
  """What is known of a unit that reads the input, and its ReLU."""
  unit: Unit
  source: equations.Source  # at first moments; it weighs the channels
  dy: np.ndarray        # [P, C] dL/d of what the norm answers
  whitened: np.ndarray  # [P, C] what its ReLU says
  known: np.ndarray     # [P, C] bool: where it says so


def solve(seen: Sequence[Seen], x: np.ndarray, held: np.ndarray,
          leaves: Leaves, update: Leaves) -> tuple[np.ndarray, float, int]:
  """Returns the input near a guess.

  Args:
    seen: of the units that read it; each has a norm of the data's statistics.
    x: [Pin, Cin] the guess.
    held: [Pin, n] orthonormal directions that no equation shows.
    leaves: the parameters by path, float64.
    update: the gradient by path, float64.

  Returns:
    (the input, what known outputs add to the eigenvalues of the kernels'
    normal matrix, steps taken).

  Raises:
    equations.Undetermined: known outputs are too few for what kernels leave
      open.
  """
  spectrum = equations.spectrum_of([each.source for each in seen], held)
  num_open = int((~spectrum.strong).sum())
  share = sum(np.count_nonzero(each.known) for each in seen) / x.shape[1]
  equations.check_share(share, num_open)
  rows, size = _numbers(seen, leaves, update)
  values, vectors = jnp.asarray(spectrum.values), jnp.asarray(spectrum.vectors)
  step, measure, ruled = programs.default().get(
      ('peeling', 'joint'), lambda: tuple(map(jax.jit, (_step, _cost, _ruled))))
  x, damping, taken = jnp.asarray(x), _START, 0
  probe = np.random.default_rng(0).choice([-1.0, 1.0], x.shape)
  ridge = float(ruled(x, rows, jnp.asarray(probe)))
  cost = float(measure(x, rows))
  for _ in range(_STEPS):
    move = step(x, rows, values * size ** 2 + ridge, vectors, damping)
    length = 1.0
    while not (now := float(measure(x + length * move, rows))) < cost:
      length /= 2
      if length < _SHORTEST:
        break
    if length < _SHORTEST:
      damping *= _MORE
      continue
    x, last, cost, taken = x + length * move, cost, now, taken + 1
    if length == 1.0 and cost > _STALLED * last:
      break
    damping *= _LESS if length == 1.0 else 1.0
  return np.asarray(x), ridge / size ** 2, taken


def _numbers(seen, leaves, update):
  """(constants of each unit's equations, weight of the kernels')."""
  weights = [equations.weights(each.source.dz) for each in seen]
  gradients = [each.unit.kernel(update) * weight
               for each, weight in zip(seen, weights)]
  # Numbers of both kinds are about as large as their errors tell.
  size = np.sqrt(sum(each.size for each in gradients)
                 / sum((each ** 2).sum() for each in gradients))
  found = []
  for each, weight, gradient in zip(seen, weights, gradients):
    unit, width = each.unit, each.unit.width
    mean, slope = unit.sent_means(leaves, update)
    found.append({
        'index': unit.geometry.index,
        'kernel': unit.kernel(leaves).reshape(-1, width),
        'gradient': size * gradient.reshape(-1, width),
        'dy': size * weight * (unit.gamma(leaves) * each.dy - mean),
        'slope': np.broadcast_to(size * weight * slope, each.dy.shape),
        'whitened': each.whitened, 'known': each.known, 'eps': unit.norm.eps,
        'sharing': unit.sharing})
  return jax.tree.map(jnp.asarray, found), size


def _residual(x: Array, rows: list[dict[str, Array]]
              ) -> tuple[list[Array], list[Array]]:
  """(misses of kernels' gradients, of known outputs) of each unit."""
  kernels, outputs = [], []
  padded = jnp.concatenate([x, jnp.zeros_like(x[:1])])
  for row in rows:
    index = row['index']
    patches = padded[index].reshape(len(index), -1)
    z = patches @ row['kernel']
    z = z - z.mean(0, keepdims=True) @ row['sharing']
    var = (z ** 2).mean(0, keepdims=True) @ row['sharing'] + row['eps']
    whitened = z * jax.lax.rsqrt(var)
    dz = (row['dy'] - row['slope'] * whitened) * jax.lax.rsqrt(var)
    kernels.append(row['gradient'] - patches.T @ dz)
    outputs.append(row['known'] * (whitened - row['whitened']))
  return kernels, outputs


def _cost(x, rows):
  return sum(jnp.sum(r ** 2) for r in jax.tree.leaves(_residual(x, rows)))


def _ruled(x, rows, probe):
  """What known outputs add to the eigenvalues, on the average."""
  _, moved = jax.jvp(lambda x: _residual(x, rows)[1], (x,), (probe,))
  return sum(jnp.sum(r ** 2) for r in moved) / probe.size


def _step(x, rows, values, vectors, damping):
  """The step of a damped problem, [Pin, Cin]."""
  now, forward = jax.linearize(lambda x: _residual(x, rows), x)
  pull = jax.linear_transpose(forward, x)
  scale = jax.lax.rsqrt(values)[:, None]  # the spectrum preconditions

  def lift(u):
    return vectors @ (scale * u)

  def drop(d):
    return scale * (vectors.T @ d)

  u, _ = jax.scipy.sparse.linalg.cg(
      lambda u: drop(*pull(forward(lift(u)))) + damping * u,
      drop(*pull(jax.tree.map(jnp.negative, now))), tol=_SOLVED,
      maxiter=_INNER_STEPS)
  return lift(u)
