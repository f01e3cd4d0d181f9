"""What theory says of a client's mechanism, to set beside what was measured."""

import math
import time
from typing import NamedTuple

import jax
import numpy as np

from vidleak_jax import trees
from vidleak_jax.clients import defenses
from vidleak_jax.evaluation import bounds
from vidleak_jax.specs import DefenseSpec
from vidleak_jax.types import Array, Leak, PRNGKey, Row, Victim

DELTA = 1e-5  # where the configuration names none
GUESSES = 0.1, 1e-3, 1e-6  # chances of a guess without the update
_PROBES, _SOLVER_STEPS, _LEAST_STEPS = 2, 4000, 10  # of the Cramer-Rao limit
_SMOOTH = {'noise_std', 'clip_norm', 'local_dp', 'dp_sgd', 'quantize_bits'}
_GRADIENTS = 8  # that a step of its solver costs


class Mechanism(NamedTuple):
  """Gaussian noise on what was clipped."""
  noise_multiplier: float  # std over the sensitivity; 0: no noise
  sensitivity: float       # how far one clip or update can move the sum
  is_bounded: bool         # whether the client clips to that sensitivity
  words: str


def mechanism(defense: DefenseSpec, leak: Leak) -> Mechanism:
  """Returns the Gaussian mechanism of a defence, with its true multiplier.

  The sensitivity is that of adding or removing one clip (DP-SGD) or the whole
  update (all others): the clipping norm, whatever a configuration calls
  sensitivity. Where nothing is clipped it is the norm of this very update, and
  there is no guarantee.
  """
  local, private = defense.local_dp, defense.dp_sgd
  std = defenses.noise_std_of(defense, leak.public.batch_size)
  norms = [value for value in (
      defense.clip_norm, local.clipping_norm if local.epsilon else 0,
      private.clip_norm / leak.public.batch_size) if value]
  if norms:
    sensitivity = min(norms)
    return Mechanism(std / sensitivity, sensitivity, True, (
        f'noise of std {std:.3g} on an update whose sensitivity is bounded by '
        f'{sensitivity:.3g}'))
  norm = max(norm_of(leak))
  return Mechanism(std / norm, norm, False, (
      f'noise of std {std:.3g} on an update that nothing clips: no bound on '
      'what one clip can do to it, so no epsilon. As if clipped at the norm of '
      f'this update, {norm:.3g}'))


def norm_of(leak: Leak) -> list[float]:
  """Returns the Euclidean norm of each update."""
  squares = sum(
      np.sum(np.asarray(leaf, np.float64).reshape(leak.num_updates, -1) ** 2, 1)
      for leaf in jax.tree.leaves(leak.update))
  return [float(each) for each in np.sqrt(squares)]


def privacy(leak: Leak) -> Row:
  """Returns epsilon and the reconstruction bound of a leak's public defence."""
  defense = leak.public.defense
  if defense is None:
    return {'known': False, 'words': (
        'The defence is not known, so there is no guarantee to count on.')}
  if not defenses.noise_std_of(defense, leak.public.batch_size):
    return {'known': True, 'noise_multiplier': 0.0, 'epsilon': None,
            'delta': None, 'words': (
                'No calibrated noise was added: epsilon is infinite. '
                'Clipping, pruning, rounding and filters give no guarantee.')}
  found = mechanism(defense, leak)
  delta = defense.local_dp.delta if defense.local_dp.epsilon else DELTA
  epsilon = bounds.gaussian_epsilon(found.noise_multiplier, delta)
  words = (f'{found.words}: noise multiplier {found.noise_multiplier:.2g}, '
           f'{_verdict(epsilon)} for one release (delta {delta:g}).')
  if defense.local_dp.epsilon:
    words += (
        f' The configuration calls this epsilon {defense.local_dp.epsilon:g}; '
        'its noise does not grow with the clipping norm.')
  return {
      'known': True, 'noise_multiplier': found.noise_multiplier,
      'sensitivity': found.sensitivity, 'is_guarantee': found.is_bounded,
      'epsilon': epsilon if found.is_bounded else None,
      'epsilon_as_if_clipped': epsilon, 'delta': delta,
      'epsilon_configured': defense.local_dp.epsilon or None,
      'advantage': bounds.membership_advantage(found.noise_multiplier),
      'reconstruction': [
          {'guess': guess, 'at_most': bounds.reconstruction_bound(
              found.noise_multiplier, guess)} for guess in GUESSES],
      'words': words[0].upper() + words[1:]}


def _verdict(epsilon: float) -> str:
  """An epsilon, and what it is worth."""
  number = f'epsilon {epsilon:.3g}'
  if epsilon >= 1e6:
    number = f'epsilon {epsilon / 1e6:.3g} million'
  if epsilon > 50:
    return f'{number}, which is no privacy'
  return f'{number}, which is weak' if epsilon > 10 else number


def no_prior(leak: Leak, clips: Array | None) -> float | None:
  """Returns the PSNR in dB of the best attack without a prior, or None.

  Args:
    leak: whose defence is public.
    clips: [N, T, H, W, C] the truth; None: the norm of uniform noise is taken.
  """
  defense = leak.public.defense
  if defense is None or not defenses.noise_std_of(
      defense, leak.public.batch_size):
    return None
  found = mechanism(defense, leak)
  if clips is None:
    norm = math.sqrt(np.prod(leak.public.clip_shape) / 3)
  else:
    norm = float(np.mean(np.linalg.norm(
        np.asarray(clips).reshape(len(clips), -1), axis=1)))
  return bounds.no_prior_psnr(found.noise_multiplier, norm)


def cramer_rao(
    victim: Victim, leak: Leak, clips: Array, labels: Array, key: PRNGKey,
    seconds: float,
) -> float | None:
  """Returns the limit in dB of unbiased attacks on a noisy update, or None.

  None where the update is exact or of several clips, or it would take too long.

  Args:
    victim: the client's network.
    leak: the first update is looked at.
    clips: [B, T, H, W, C] the truth of the first update.
    labels: [B] of the clips.
    key: of the probes; consumed.
    seconds: that it may take.
  """
  defense = leak.public.defense
  if (defense is None or len(clips) != 1 or set(defense.active()) - _SMOOTH
      or leak.public.federated.algorithm != 'fedsgd'):
    return None
  gradient = jax.jit(jax.grad(victim.loss))
  exact = gradient(leak.params, clips, labels)
  seen = jax.tree.map(lambda leaf: leaf[0], leak.update)
  # Clipping scaled the gradient down, and noise came after it.
  factor = float(trees.dot(seen, exact) / trees.dot(exact, exact))
  std = jax.tree.map(lambda leaf: _std_of(leaf, defense) / factor, seen)
  if not all(value > 0 for value in jax.tree.leaves(std)):
    return None  # an exact entry has no limit of this kind
  began = time.perf_counter()
  jax.block_until_ready(gradient(leak.params, clips, labels))
  steps = int(seconds / ((time.perf_counter() - began) * _GRADIENTS * _PROBES))
  if steps < _LEAST_STEPS:
    return None
  return bounds.cramer_rao_psnr(
      victim.loss, leak.params, clips[0], int(labels[0]), std, key,
      num_probes=_PROBES, num_steps=min(steps, _SOLVER_STEPS))


def _std_of(leaf: Array, defense: DefenseSpec) -> float:
  """The std of one leaf's entries, of noise and of rounding."""
  std = defenses.noise_std_of(defense, 1)
  if defense.quantize_bits:
    levels = max(1.0, 2.0 ** (defense.quantize_bits - 1) - 1)
    size = float(np.abs(np.asarray(leaf)).max())
    if not size:
      return math.inf
    std = math.hypot(std, size / levels / 12 ** 0.5)
  return std
