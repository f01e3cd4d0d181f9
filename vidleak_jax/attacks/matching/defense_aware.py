"""The attack for updates that passed a defence which is known, or found out."""

import dataclasses
import time
from typing import Any, ClassVar

import jax
import numpy as np

from vidleak_jax import trees
from vidleak_jax.attacks import detection, observation
from vidleak_jax.attacks.base import (
    CUT,
    Attack,
    Cost,
    Effort,
    Outcome,
    Problem,
    needs_one_clip,
)
from vidleak_jax.attacks.matching.defended import (
    DefendedOptions,
    DefendedResult,
    recover_defended,
    unfinished,
)
from vidleak_jax.attacks.observation import Applied
from vidleak_jax.errors import OutOfTime
from vidleak_jax.options import option
from vidleak_jax.specs import DefenseSpec
from vidleak_jax.types import Array, Leak, Params, Recovery, Row, Victim


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
  finish_steps: int = option(
      20, 'of Gauss-Newton, on all leaves', low=0, high=10**4)
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
        top_steps=self.top_steps, finish_steps=self.finish_steps,
        newton_steps=self.newton_steps)
    results: list[DefendedResult] = []
    applied: tuple[Applied, ...] = ()
    cut: Row = {}
    for i in range(leak.num_updates):
      update = jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i]), leak.update)
      applied = applied_to(update, leak.public.defense)
      label = None if leak.labels is None else int(leak.labels[i, 0])
      seen = observation.observe_update(update, applied)
      latest: list[Array] = []

      def tell(stage, done, total, clips, latest=latest):
        latest[:] = [jax.block_until_ready(clips)]
        session.tell(stage, done, total)
      try:
        results.append(recover_defended(
            victim.layers, leak.params, update, seen, label,
            leak.public.clip_shape, jax.random.fold_in(problem.key, i),
            scale=1.0 if observation.scale_is_known(applied) else None,
            options=options, progress=tell))
      except OutOfTime as error:
        if leak.num_updates > 1 or not latest:
          raise
        cut = {CUT: str(error)}
        results.append(unfinished(
            latest[0], seen[victim.layers[-1].name], label))
    recovery = Recovery(
        np.stack([each.clip for each in results])[:, None].astype(np.float32),
        np.array([[each.label] for each in results], np.int32),
        np.array([each.chi2 for each in results], np.float32))
    notes = sorted({note for each in results for note in each.notes})
    return Outcome(
        recovery, Cost(seconds_attack=time.perf_counter() - began),
        {'defense_applied': [each.name for each in applied],
         'defense_notes': notes} | cut)


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
  local, svt = defense.local_dp, defense.svt
  # A clip alone in its update: DP-SGD clips and blurs it as a whole.
  rows: tuple[tuple[str, dict[str, Any], float | str], ...] = (
      ('clip_by_global_norm', {'max_norm': defense.dp_sgd.clip_norm},
       defense.dp_sgd.clip_norm),
      ('gaussian_noise', {'std': (
          defense.dp_sgd.clip_norm * defense.dp_sgd.noise_multiplier)},
       defense.dp_sgd.clip_norm * defense.dp_sgd.noise_multiplier),
      ('clip_by_global_norm', {'max_norm': defense.clip_norm},
       defense.clip_norm),
      ('gaussian_noise', {'std': defense.noise_std}, defense.noise_std),
      ('local_dp_mod', local.to_dict(), local.epsilon),
      ('exclude_vars', {'patterns': defense.exclude_vars},
       defense.exclude_vars),
      ('svt_privacy', {'gamma': svt.gamma, 'noise_var': svt.noise_var},
       svt.fraction),
      ('prune', {'fraction': defense.prune_fraction}, defense.prune_fraction),
      ('top_k', {'fraction': defense.topk_fraction}, defense.topk_fraction),
      ('quantize', {'bits': defense.quantize_bits}, defense.quantize_bits),
      ('qsgd', {'levels': defense.qsgd_levels}, defense.qsgd_levels),
      ('sign', {'scaled': defense.sign == 'scaled'}, defense.sign != 'off'),
      ('nvflare_percentile', {
          'percentile': defense.nvflare_percentile,
          'gamma': defense.nvflare_gamma or 0.01},
       defense.nvflare_percentile or defense.nvflare_gamma))
  return tuple(Applied(name, strengths)
               for name, strengths, is_on in rows if is_on)
