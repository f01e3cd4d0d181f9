"""The attack on a frozen extractor: features from the head, then frames."""

import dataclasses
import time
from typing import ClassVar

import numpy as np

from vidleak_jax.attacks import features
from vidleak_jax.attacks.analytic.solver import doubts
from vidleak_jax.attacks.base import (
    Attack,
    Cost,
    Effort,
    Outcome,
    Problem,
    needs_fedsgd,
)
from vidleak_jax.attacks.features.head import needs_batch
from vidleak_jax.models.resize import resized
from vidleak_jax.options import option
from vidleak_jax.types import Leak, Recovery, Row, Victim


@dataclasses.dataclass(frozen=True)
class FrozenFeatures(Attack):
  """Every frame's feature exactly, then frames like public ones.

  Only the head's gradient is shared. Real frames of the scene that the attacker
  holds are mixed to fit the features.
  """
  name: ClassVar[str] = 'frozen_features'
  cost: ClassVar[int] = 15
  weights: str | None = option(None, 'of the mixture; None: shipped ones')
  num_scenes: int = option(1000, 'public ones, for statistics', low=2,
                           high=10**6)
  seed: int = option(0, 'of those', low=0)

  def requires(self, victim: Victim, leak: Leak) -> list[str]:
    """See `Attack.requires`."""
    reasons = needs_fedsgd(leak)
    if victim.on_features is None:
      reasons.append('it needs a frozen extractor with a trained head, such as '
                     'victim.name=frozen')
    elif not victim.feature_layer and not victim.on_features.layers:
      reasons.append('the head mixes the frames before its first dense layer, '
                     'and is no chain of invertible layers')
    elif leak.public.batch_size > 1:
      reasons += needs_batch(victim, leak.public.batch_size)
    return reasons

  def run(self, problem: Problem, effort: Effort) -> Outcome:
    """See `Attack.run`."""
    del effort
    victim, leak, public = problem.victim, problem.leak, problem.leak.public
    self.check(victim, leak)
    began = time.perf_counter()
    recovered = features.recover_features(
        victim, leak, batch_size=public.batch_size)
    num_frames, size = public.clip_shape[:2]
    # Of a whole clip a classifier shows the mean: it stands for each frame.
    values = np.repeat(
        recovered.values, num_frames // recovered.values.shape[2], 2)
    frames = features.recover_frames(
        features.frame_extractor(victim),
        values.reshape(-1, public.frames_per_clip, values.shape[-1]), size,
        None if leak.references is None else resized(leak.references, size),
        path=self.weights,
        num_scenes=self.num_scenes, seed=self.seed)
    clips = frames.reshape(*recovered.labels.shape, *public.clip_shape)
    residual = max(row['residual'] for row in recovered.report)
    recovery = Recovery(clips, recovered.labels,
                        np.full(len(clips), residual, np.float32),
                        recovered.values)
    notes = [doubts(recovered.report), *recovered.notes]
    findings: Row = {'closed_form': recovered.report,
                     'closed_form_note': ' '.join(filter(None, notes))}
    if public.batch_size > 1:
      findings['labels_certified'] = not recovered.notes
    return Outcome(
        recovery, Cost(seconds_attack=time.perf_counter() - began), findings)
