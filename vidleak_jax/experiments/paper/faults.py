"""The six faults of the paper's notebooks, each shown by a measurement.

Each function returns one sentence with the figures it measured.
"""

import jax
import numpy as np

from vidleak_jax import data, types, victims
from vidleak_jax.attacks import analytic
from vidleak_jax.data import clips as clips_lib
from vidleak_jax.evaluation import metrics

_CLASSES = 100


def measure(sample: data.Sample, longer: data.Sample) -> list[str]:
  """All six.

  Args:
    sample: the audit's clips.
    longer: clips of more than ten neighbouring frames, of the same videos.
  """
  return [wrapped(sample), order(longer), geometry(sample), rescaling(sample),
          dropout(sample), foreign_weights(longer)]


def to_uint8(clips: np.ndarray) -> np.ndarray:
  """Floats in [0, 1] as the bytes that a video file would hold."""
  return np.round(255 * np.asarray(clips)).astype(np.uint8)


def wrapped_psnr(clips: np.ndarray, truth: np.ndarray) -> float:
  """Mean over frames of the notebooks' PSNR; infinite for equal bytes."""
  frames = [x.reshape(-1, *x.shape[-3:]) for x in map(to_uint8, (clips, truth))]
  with np.errstate(divide='ignore'):
    return float(np.mean([
        psnr_uint8_wrapped(a, b) for a, b in zip(*frames)]))


def psnr_uint8_wrapped(a: np.ndarray, b: np.ndarray) -> float:
  """Returns the faulty PSNR of the paper's notebooks, to show the fault.

  The difference of uint8 arrays wraps modulo 256, and so does its square:
  noise against noise scores 27.9 dB instead of 7.7. Never report it.

  Args:
    a: uint8 of any shape.
    b: uint8, same shape.
  """
  if a.dtype != np.uint8 or b.dtype != np.uint8:
    raise types.UserError(
        f'The fault needs uint8, got {a.dtype} and {b.dtype}.')
  return float(10 * np.log10(255 ** 2 / np.mean((a - b) ** 2)))


def wrapped(sample) -> str:
  """1: PSNR on uint8."""
  truth, other = sample.batch.clips, sample.unrelated
  noise = np.random.default_rng(0).uniform(size=(2, *truth.shape))
  return (
      'PSNR is computed on uint8, where differences and their squares wrap '
      f'modulo 256. Unrelated clips score {wrapped_psnr(other, truth):.1f} dB '
      f'instead of {np.mean(metrics.psnr(other, truth)):.1f}, noise against '
      f'noise {wrapped_psnr(*noise):.1f} instead of '
      f'{np.mean(metrics.psnr(*noise)):.1f}. Every PSNR that the paper prints '
      'lies between 28.4 and 29.5.')


def order(longer) -> str:
  """2: frames paired by file names without leading zeros."""
  truth = longer.batch.clips
  by_name = sorted(range(truth.shape[1]), key=str)
  return (
      'Frames are paired by file names without leading zeros (0, 1, 10, 11, '
      f'2, ...). A perfect recovery of {truth.shape[1]} neighbouring frames '
      'then scores SSIM '
      f'{np.mean(metrics.ssim(truth[:, by_name], truth)):.3f} instead of 1.')


def geometry(sample) -> str:
  """3: one side squashed, the other cropped."""
  from PIL import Image
  size = sample.batch.clips.shape[2]
  large = to_uint8(sample.originals)
  margin = large.shape[2] // 8
  wide = large[:, :, margin:-margin]  # 4:3, as the paper's videos
  cropped = np.stack([clips_lib.square(clip, size) for clip in wide])
  squashed = np.stack([
      [np.asarray(Image.fromarray(frame).resize(
          (size, size), Image.Resampling.BICUBIC)) for frame in clip]
      for clip in wide]).astype(np.float32) / 255
  return (
      'Originals are squashed to a square, recoveries centre-cropped. The '
      'same 4:3 frames prepared in these two ways agree to only '
      f'{np.mean(metrics.psnr(cropped, squashed)):.1f} dB, SSIM '
      f'{np.mean(metrics.ssim(cropped, squashed)):.3f}.')


def rescaling(sample) -> str:
  """4: each frame rescaled by its own minimum and maximum."""
  truth = sample.batch.clips
  low = truth.min(axis=(2, 3, 4), keepdims=True)
  span = truth.max(axis=(2, 3, 4), keepdims=True) - low
  scores = metrics.psnr((truth - low) / np.maximum(span, 1e-6), truth)
  return (
      'Each frame is rescaled by its own minimum and maximum. A perfect '
      f'recovery then scores {scores.min():.1f} dB in the worst frame.')


def dropout(sample) -> str:
  """5: the objective is random, the feature is there all the same."""
  victim, features = _frozen('classifier2', sample.batch.clips[:1, :1])
  params = victim.init(jax.random.key(0))
  off, *on = (_gradient(victim, params, features, key)
              for key in (None, jax.random.key(1), jax.random.key(2)))
  errors = []
  for update in (off, on[0]):
    stacked = jax.tree.map(lambda a: np.asarray(a)[None], update)
    found = analytic.dense_input(stacked, ('dense0',), 1).features
    errors.append(np.linalg.norm(found - features[:, 0])
                  / np.linalg.norm(features))
  return (
      'Dropout stays on in Classifier 2, for the client and for the attacker, '
      'so the objective is random: the truth itself misses the gradient by '
      f'{_mismatch(*on):.0%} of its norm. The feature is one division away '
      f'all the same: relative error {errors[1]:.0e} with dropout on, '
      f'{errors[0]:.0e} with it off.')


def foreign_weights(longer) -> str:
  """6: the attacker's network is another one."""
  victim, features = _frozen('matrix', longer.batch.clips[:1, :10])
  theirs, again, own = (
      _gradient(victim, victim.init(jax.random.key(seed)), features)
      for seed in (0, 0, 1))
  return (
      'In the feature-matrix notebooks the attacker never gets the client\'s '
      'weights. With weights of its own the truth misses the gradient by '
      f'{_mismatch(theirs, own):.0%} of its norm, with the client\'s by '
      f'{_mismatch(theirs, again):.0%}: such a match has nothing to find.')


def _frozen(head: str, clip: np.ndarray) -> tuple[types.Victim, np.ndarray]:
  """The head alone, and the features [1, T, F] that a frozen ResNet feeds."""
  victim = victims.build('frozen', clip.shape[1:], _CLASSES, head=head)
  assert victim.on_features and victim.features  # a frozen victim has both
  return victim.on_features, np.asarray(jax.jit(victim.features)(clip))


def _gradient(victim, params, features, key=None):
  labels = np.array([3])
  return jax.jit(jax.grad(victim.loss))(params, features, labels, key)


def _mismatch(a, b) -> float:
  """|a - b| / |a| over whole trees."""
  def norm(tree):
    return np.sqrt(sum(np.sum(np.square(x)) for x in jax.tree.leaves(tree)))
  return float(norm(jax.tree.map(np.subtract, a, b)) / norm(a))
