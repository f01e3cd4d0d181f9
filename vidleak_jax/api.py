"""The Python interface: attacks in memory, without files or side effects."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from vidleak_jax import attacks as attacks_lib
from vidleak_jax.attacks.base import Attack, Effort, Problem
from vidleak_jax.attacks.registry import ATTACKS
from vidleak_jax.evaluation import metrics
from vidleak_jax.leaks import storage
from vidleak_jax.runtime import backend
from vidleak_jax.runtime.session import Report, session
from vidleak_jax.types import (
    Array,
    Leak,
    PRNGKey,
    UserError,
    Victim,
    pick,
)


@dataclasses.dataclass(frozen=True, eq=False)
class AttackResult:
  """What an attack recovered from a leak.

  Attributes:
    clips: [N, T, H, W, C] float32 in [0, 1]; within an update of several clips
      their order means nothing.
    labels: [N] int32.
    gradient_residual: [M] how far the update that each answer would cause is
      from the one observed, relative; it ranks attacks.
    attack: the name of the attack whose answer this is.
    findings: ranks, residuals, notes; of `auto` the verdict and the attempts.
    num_updates: M.
  """
  clips: Float[np.ndarray, 'N T H W C']
  labels: Int[np.ndarray, ' N']
  gradient_residual: Float[np.ndarray, ' M']
  attack: str
  findings: Mapping[str, Any]
  num_updates: int

  @property
  def verdict(self) -> str | None:
    """'recovered', 'partly' or 'nothing found ...'; None of a lone attack."""
    return self.findings.get('verdict')


def attack(
    victim: Victim, leak: Leak, attack: str | Attack = 'auto', *, key: PRNGKey,
    num_restarts: int = 1, halve_at: Sequence[int] = (),
    devices: Sequence[jax.Device] | None = None,
    folder: str | Path | None = None, progress: Report | None = None,
) -> AttackResult:
  """Returns what an attack recovers from a leak alone.

  Args:
    victim: the network that the leak belongs to.
    leak: what the server saw.
    attack: a name, or an attack with its options, `vl.attacks.ig(...)`.
    key: all randomness of the attack; consumed.
    num_restarts: independent starts of an iterative attack.
    halve_at: steps after which the worse half of them is dropped.
    devices: that share the restarts; None: all.
    folder: where checkpoints go, so that the same call resumes; None: nothing
      is written.
    progress: called as `progress(stage, done, total, **values)`; None: nothing
      is told.

  Raises:
    UserError: where the attack does not apply, with the reasons.

  >>> import jax, vidleak_jax as vl
  >>> victim = vl.victims.c3d((4, 16, 16, 3), 7, preset='tiny')
  >>> clips = jax.random.uniform(jax.random.key(0), (1, 4, 16, 16, 3))
  >>> leak = vl.observe(victim, victim.init(jax.random.key(1)), clips, [5])
  >>> found = vl.attack(victim, leak, vl.attacks.ig(num_steps=3),
  ...                   key=jax.random.key(2))
  >>> found.labels, found.clips.shape
  (array([5], dtype=int32), (1, 4, 16, 16, 3))
  """
  chosen = pick(ATTACKS, attack, 'attack')() if isinstance(
      attack, str) else attack
  where = session(devices, folder=folder and Path(folder), report=progress)
  storage.check(leak, jax.eval_shape(victim.init, jax.random.key(0)))
  effort = Effort(num_restarts=num_restarts, halve_at=tuple(halve_at))
  with backend.settings(where.choices):
    outcome, = attacks_lib.solve(
        [Problem(victim, leak, key, where)], [chosen], effort, where.folder)
  if isinstance(outcome, UserError):
    raise outcome
  recovery = outcome.recovery
  clips = recovery.clips.reshape(-1, *leak.public.clip_shape)
  return AttackResult(
      clips, recovery.labels.reshape(-1),
      np.asarray(recovery.gradient_residual),
      str(outcome.findings.get('attack', chosen.name)), outcome.findings,
      leak.num_updates)


def applicable(victim: Victim, leak: Leak) -> dict[str, list[str]]:
  """Returns of every attack why it does not apply; [] where it does.

  >>> import jax, vidleak_jax as vl
  >>> victim = vl.victims.c3d((4, 16, 16, 3), 7, preset='tiny')
  >>> clips = jax.random.uniform(jax.random.key(0), (1, 4, 16, 16, 3))
  >>> leak = vl.observe(victim, victim.init(jax.random.key(1)), clips, [5])
  >>> vl.applicable(victim, leak)['feature_matching']
  []
  """
  return {name: make().requires(victim, leak) for name, make in ATTACKS.items()}


@dataclasses.dataclass(frozen=True, eq=False)
class Scores:
  """A recovery against the truth, with floors that need no gradient.

  Attributes:
    psnr: [N] dB, at most 100 a frame, the mean over frames.
    ssim: [N], None where frames are too small.
    psnr_mean_frame: [N] of the truth's own mean colour.
    psnr_unrelated: [N] of an unrelated clip, None without one.
    num_exact: clips without an error above half a level of 256.
    label_accuracy: share of right labels, None without labels.
  """
  psnr: Float[np.ndarray, ' N']
  ssim: Float[np.ndarray, ' N'] | None
  psnr_mean_frame: Float[np.ndarray, ' N']
  psnr_unrelated: Float[np.ndarray, ' N'] | None
  num_exact: int
  label_accuracy: float | None


def evaluate(
    found: AttackResult, clips: Float[Array, 'N T H W C'],
    labels: Int[Array, ' N'] | None = None, *,
    unrelated: Float[Array, 'N T H W C'] | None = None,
) -> Scores:
  """Returns scores; the only place where truth and recovery meet.

  Clips of one update come back in any order: they are paired with the truth so
  that the error is least, within each update.

  Args:
    found: of `attack`.
    clips: [N, T, H, W, C] the truth, in [0, 1].
    labels: [N], where their accuracy is asked for.
    unrelated: [N, T, H, W, C] clips of other scenes, for a floor.

  Raises:
    UserError: for another shape than the recovery's.
  """
  truth = np.asarray(clips, np.float32)
  if truth.size != found.clips.size or truth.shape[2:] != found.clips.shape[2:]:
    raise UserError(f'clips have shape {truth.shape}; the recovery has '
                    f'{found.clips.shape}.')
  per_update = (found.num_updates, -1, *found.clips.shape[1:])
  order = metrics.assign(found.clips.reshape(per_update),
                         truth.reshape(per_update))
  rows = np.arange(found.num_updates)[:, None]
  aligned = found.clips.reshape(per_update)[rows, order].reshape(truth.shape)
  other = None if unrelated is None else np.asarray(unrelated, np.float32)
  scored = metrics.score(aligned, truth, truth if other is None else other,
                         None)
  ssim = scored['ssim_per_clip']
  accuracy = None
  if labels is not None:
    apart = (found.num_updates, -1)
    recovered = found.labels.reshape(apart)[rows, order]
    true = np.asarray(labels).reshape(apart)
    accuracy = metrics.label_accuracy(recovered, true)
  return Scores(
      np.asarray(scored['psnr_per_clip']),
      None if ssim is None or None in ssim else np.asarray(ssim),
      np.asarray(scored['psnr_mean_frame_per_clip']),
      None if other is None else np.asarray(scored['psnr_unrelated_per_clip']),
      int(scored['num_exact']), accuracy)
