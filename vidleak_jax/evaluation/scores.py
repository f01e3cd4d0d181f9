"""Where the truth and a recovery meet, and nowhere else."""


import numpy as np

from vidleak_jax import data, superres
from vidleak_jax.clients import join, split
from vidleak_jax.evaluation import metrics
from vidleak_jax.models.resize import resized
from vidleak_jax.types import Leak, Recovery, Row, Victim

_ENLARGED = (
    'psnr_enhanced', 'ssim_enhanced', 'psnr_bicubic', 'ssim_bicubic',
    'flicker_enhanced', 'flicker_bicubic')


def alignment(
    sample: data.Sample, recovery: Recovery, leak: Leak, victim: Victim,
) -> np.ndarray:
  """Returns which recovered clip is which true one, [M, B].

  The clips of one update come back in any order. Features say which is which
  where they were recovered: clips are a guess then. Nothing of this may return
  to an attack.
  """
  truth = split(sample.batch, leak.public.federated.message)
  if recovery.features is not None:
    return metrics.assign(
        recovery.features, _features(truth, recovery, victim))
  return metrics.assign(recovery.clips, truth.clips)


def _features(truth, recovery, victim):
  """True features as far as an attack sees them, [M, B, T, F]."""
  shape = truth.clips.shape
  features = victim.features(truth.clips.reshape(-1, *shape[2:]))
  features = np.asarray(features).reshape(*shape[:2], *features.shape[1:])
  if recovery.features.shape[2] < features.shape[2]:
    features = features.mean(2, keepdims=True)
  return features


def in_order(
    order: np.ndarray, recovery: Recovery, enhanced: np.ndarray | None
) -> tuple[Recovery, np.ndarray | None]:
  """Returns a recovery, and its enlarged clips, in the truth's order.

  Args:
    order: of `alignment`.
    recovery: of M updates.
    enhanced: [N, T, S, S, C] as the attack left them, or None.
  """
  rows = np.arange(len(order))[:, None]
  aligned = recovery._replace(clips=recovery.clips[rows, order],
                              labels=recovery.labels[rows, order])
  if recovery.features is not None:
    aligned = aligned._replace(features=recovery.features[rows, order])
  if enhanced is not None and order.shape[1] > 1:  # whole clips, some a message
    apart = enhanced.reshape(*order.shape, *enhanced.shape[1:])
    enhanced = apart[rows, order].reshape(enhanced.shape)
  return aligned, enhanced


def score(
    sample: data.Sample, recovery: Recovery, leak: Leak, victim: Victim,
) -> Row:
  """Returns what an attack recovered, per clip, with the floors beside it.

  Args:
    sample: N clips, and what scores the floors.
    recovery: of M updates, in the truth's order.
    leak: what the attacker saw: how clips form updates, and references held.
    victim: computes the true features, where those were recovered.
  """
  truth = split(sample.batch, leak.public.federated.message)
  clips = join(recovery.clips, leak.public.frames_per_clip)
  more: Row = {}
  if recovery.features is not None:  # of frames, or of whole clips their mean
    more['feature_relative_error'] = metrics.relative_error(
        recovery.features, _features(truth, recovery, victim))
  return {
      **metrics.score(clips, sample.batch.clips, sample.unrelated,
                      _best_copy(leak.references, sample.batch.clips)),
      **more,
      'label_accuracy': metrics.label_accuracy(recovery.labels, truth.labels),
  }


def _best_copy(references, truth) -> np.ndarray | None:
  """[N, 1, S, S, C]: of each clip's references the one that is nearest it."""
  if references is None or not references.shape[1]:
    return None
  references = resized(references, truth.shape[2])
  best = []
  for held, clip in zip(references, truth, strict=True):
    values = [metrics.psnr(np.broadcast_to(one, clip.shape), clip).mean()
              for one in held]
    best.append(held[np.argmax(values)])
  return np.stack(best)[:, None]


def score_enlarged(
    enhanced: np.ndarray | None = None, clips: np.ndarray | None = None,
    originals: np.ndarray | None = None,
) -> Row:
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
