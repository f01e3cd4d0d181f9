"""The attack for updates that passed a defence which is known, or found out."""

import dataclasses
import time
from typing import ClassVar

import jax
import numpy as np

from vidleak_jax import trees
from vidleak_jax.attacks import detection, observation
from vidleak_jax.attacks.base import (
    Attack,
    Cost,
    Effort,
    Outcome,
    Problem,
    needs_one_clip,
)
from vidleak_jax.attacks.matching.defended import (
    DefendedOptions,
    recover_defended,
)
from vidleak_jax.attacks.observation import Applied
from vidleak_jax.options import option
from vidleak_jax.specs import DefenseSpec
from vidleak_jax.types import Leak, Params, Recovery, Victim


@dataclasses.dataclass(frozen=True)
class DefenseAware(Attack):
  """Feature matching that takes each entry for what a defence left of it.

  Noise has a known variance, rounded and pruned entries are intervals, clipped
  ones half-lines; the model error of the present guess is part of the
  covariance, and falls. What the defence is stands in the public facts, or is
  read off the update.

  >>> DefenseAware().name
  'defense_aware'
  """
  name: ClassVar[str] = 'defense_aware'
  cost: ClassVar[int] = 60
  top_steps: int = option(600, 'of Adam, on features and the last kernel',
                          low=1, high=10**6)
  all_steps: int = option(1600, 'of Adam, on all leaves', low=0, high=10**6)
  newton_steps: int = option(
      40, 'of Gauss-Newton, where entries are exact', low=0, high=10**4)

  def requires(self, victim: Victim, leak: Leak) -> list[str]:
    """See `Attack.requires`."""
    reasons = needs_one_clip(leak)
    if len(victim.layers) < 2:
      reasons.append('it needs a network that is a plain chain of layers and '
                     'activations, such as c3d or lenet')
    elif any('bias' not in trees.named(leak.params, layer.name)
             or '/' in layer.name for layer in victim.layers):
      reasons.append('it needs a bias in every layer')
    defense = leak.public.defense
    if defense is not None and defense.is_off:
      reasons.append('no defence was applied: use feature_matching')
    return reasons

  def run(self, problem: Problem, effort: Effort) -> Outcome:
    """See `Attack.run`."""
    del effort
    victim, leak, session = problem.victim, problem.leak, problem.session
    self.check(victim, leak)
    began = time.perf_counter()
    options = DefendedOptions(
        top_steps=self.top_steps, all_steps=self.all_steps,
        newton_steps=self.newton_steps)
    found, applied = [], ()
    for i in range(leak.num_updates):
      update = jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i]), leak.update)
      applied = applied_to(update, leak.public.defense)
      label = None if leak.labels is None else int(leak.labels[i, 0])
      found.append(recover_defended(
          victim.layers, leak.params, update,
          observation.observe_update(update, applied), label,
          leak.public.clip_shape, jax.random.fold_in(problem.key, i),
          scale=1.0 if observation.scale_is_known(applied) else None,
          options=options, progress=lambda stage, done, total, clip:
          session.tell(stage, done, total)))
    recovery = Recovery(
        np.stack([each.clip for each in found])[:, None].astype(np.float32),
        np.array([[each.label] for each in found], np.int32),
        np.array([each.chi2 for each in found], np.float32))
    notes = sorted({note for each in found for note in each.notes})
    return Outcome(
        recovery, Cost(seconds_attack=time.perf_counter() - began),
        {'defense_applied': [each.name for each in applied],
         'defense_notes': notes})


def applied_to(
    update: Params, defense: DefenseSpec | None) -> tuple[Applied, ...]:
  """Returns the defences in the order in which a client applied them.

  Args:
    update: one update; it is looked at where the defence is not known.
    defense: what is public, or None.
  """
  if defense is None:
    return tuple(finding.applied for finding in detection.detect(update)
                 if finding.applied)
  rows = (
      ('clip_by_global_norm', 'max_norm', defense.clip_norm),
      ('gaussian_noise', 'std', defense.noise_std),
      ('prune', 'fraction', defense.prune_fraction),
      ('quantize', 'bits', defense.quantize_bits))
  applied = [Applied(name, {field: value}) for name, field, value in rows
             if value]
  if defense.nvflare_percentile or defense.nvflare_gamma:
    applied.append(Applied('nvflare_percentile', {
        'percentile': defense.nvflare_percentile,
        'gamma': defense.nvflare_gamma or 0.01}))
  return tuple(applied)
