"""Where the truth and a recovery meet, and nowhere else."""

from typing import Any

import numpy as np

from vidleak_jax import data, superres
from vidleak_jax.clients import federated
from vidleak_jax.evaluation import metrics
from vidleak_jax.types import Recovery, Victim

_ENLARGED = (
    'psnr_enhanced', 'ssim_enhanced', 'psnr_bicubic', 'ssim_bicubic',
    'flicker_enhanced', 'flicker_bicubic')


def score(
    sample: data.Sample, recovery: Recovery, references: np.ndarray | None,
    victim: Victim, config: dict[str, Any],
) -> tuple[Recovery, dict[str, Any]]:
  """What an attack recovered, per clip, with the floors beside it.

  The clips of one gradient come back in any order, so they are aligned within
  their message; the files keep that order.

  Args:
    sample: N clips, and what scores the floors.
    recovery: of M messages.
    references: [N, R, S, S, C] that the attacker held, or None.
    victim: computes the true features, where those were recovered.
    config: resolved.

  Returns:
    (the recovery aligned, scores for result.json).
  """
  truth = federated.split(sample.batch, config['federated']['message'])
  rows = np.arange(len(truth.clips))[:, None]
  order = metrics.assign(recovery.clips, truth.clips)
  aligned = recovery._replace(clips=recovery.clips[rows, order],
                              labels=recovery.labels[rows, order])
  clips = federated.join(aligned.clips, config['data']['num_frames'])
  more = {}
  if recovery.features is not None:  # of frames, or of whole clips their mean
    features = victim.features(truth.clips[:, 0])
    if recovery.features.shape[1] < features.shape[1]:
      features = features.mean(1, keepdims=True)
    more['feature_relative_error'] = metrics.relative_error(
        recovery.features, features)
  return aligned, {
      **metrics.score(clips, sample.batch.clips, sample.unrelated,
                      _best_copy(references, sample.batch.clips)),
      **more,
      'label_accuracy': metrics.label_accuracy(aligned.labels, truth.labels),
  }


def _best_copy(references, truth) -> np.ndarray | None:
  """[N, 1, S, S, C]: of each clip's references the one that is nearest it."""
  if references is None:
    return None
  best = []
  for held, clip in zip(references, truth, strict=True):
    scores = [metrics.psnr(np.broadcast_to(one, clip.shape), clip).mean()
              for one in held]
    best.append(held[np.argmax(scores)])
  return np.stack(best)[:, None]


def score_enlarged(
    enhanced: np.ndarray | None = None, clips: np.ndarray | None = None,
    originals: np.ndarray | None = None,
) -> dict[str, Any]:
  """Enlarged clips against the originals, bicubic beside them.

  Args:
    enhanced: [N, T, S, S, C], or None where nothing was enlarged.
    clips: [N, T, s, s, C], what was enlarged.
    originals: as `enhanced`, or None where nobody knows them.

  Returns:
    Scores for result.json; None each, where there is nothing to compare.
  """
  if enhanced is None or originals is None:
    return dict.fromkeys(_ENLARGED)
  scale = enhanced.shape[-2] // clips.shape[-2]
  bicubic = np.asarray(superres.bicubic(clips, scale))
  return {
      **metrics.score_enhanced(enhanced, bicubic, originals),
      'flicker_enhanced': superres.flicker(enhanced, originals),
      'flicker_bicubic': superres.flicker(bicubic, originals),
  }
