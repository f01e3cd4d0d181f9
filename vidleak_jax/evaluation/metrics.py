"""How near a recovery comes to the truth: the only stage that sees both.

Every function takes NumPy or JAX arrays of floats in [0, 1], channels last,
and raises UserError on integers, values outside [0, 1], NaN or unequal shapes.
Errors are taken in float64, so that near recoveries are scored exactly. PSNR
ends at CEILING, far beyond what 8-bit video can show (a single wrong level in a
frame of 32x32 is 83 dB): a mean over larger figures would be a mean of rounding
errors. How many clips are exact is counted instead.
"""

import jax
import jax.numpy as jnp
import numpy as np

from vidleak_jax.types import Array, UserError

CEILING = 100.0   # dB of a frame or a clip; equal ones would be infinite
HALF_LEVEL = 0.5 / 255  # errors below it vanish where pixels are rounded
WINDOW = 11       # pixels; SSIM's Gaussian window is WINDOW x WINDOW
TOLERANCE = 1e-6  # a clip may leave [0, 1] by rounding, no further


def psnr(a: Array, b: Array) -> np.ndarray:
  """Peak signal-to-noise ratio in dB of each frame, at most CEILING.

  Args:
    a: [..., H, W, C] in [0, 1].
    b: same shape.

  Returns:
    [...] float64. A clip's PSNR is the mean over its frames.
  """
  return decibels(squared_error(a, b))


def squared_error(a: Array, b: Array) -> np.ndarray:
  """Mean squared error of each frame, float64 [...]; arguments as in `psnr`."""
  a, b = _checked(a, b)
  return np.mean(
      np.square(np.subtract(a, b, dtype=np.float64)), axis=(-3, -2, -1))


def decibels(error: float | np.ndarray) -> np.ndarray:
  """PSNR of mean squared errors, at most CEILING."""
  return -10 * np.log10(np.maximum(error, 10 ** (-CEILING / 10)))


def is_exact(recovered: Array, truth: Array) -> np.ndarray:
  """Whether each clip has no error of half a level of 256, or more.

  Rounded to 8 bits such a clip is the true one.

  Args:
    recovered: [..., T, H, W, C] in [0, 1].
    truth: same shape.

  Returns:
    [...] bool.
  """
  recovered, truth = _checked(recovered, truth)
  error = np.abs(np.subtract(recovered, truth, dtype=np.float64))
  return error.max(axis=(-4, -3, -2, -1)) < HALF_LEVEL


def ssim(a: Array, b: Array) -> np.ndarray:
  """Structural similarity of each frame (Wang et al. 2004, Gaussian window).

  Colours are scored one by one and averaged; the border, where the window
  does not fit, is left out.

  Args:
    a: [..., H, W, C] in [0, 1].
    b: same shape.

  Returns:
    [...] float64. NaN, for undefined, where H or W is below WINDOW.
  """
  a, b = _checked(a, b)
  *lead, height, width, channels = a.shape
  if min(height, width) < WINDOW:
    return np.full(lead, np.nan)
  frames = (-1, height, width, channels)
  values = _ssim(*(x.reshape(frames).astype(np.float32) for x in (a, b)))
  return np.asarray(values, np.float64).reshape(lead)


@jax.jit
def _ssim(a, b):
  import dm_pix
  return dm_pix.ssim(a, b)


def score(recovered: Array, truth: Array, unrelated: Array,
          reference: Array | None = None) -> dict:
  """Scores a recovery, and beside it the floors it has to beat.

  A floor is an answer that needs no gradient: an unrelated clip, the truth's
  own mean colour, or the reference frame copied; a recovery counts only above
  the best of them.

  Args:
    recovered: [N, T, H, W, C] in [0, 1], in the truth's order (see `assign`).
    truth: same shape.
    unrelated: broadcasts to the same shape; clips of other scenes.
    reference: the attacker's reference frames, where it has them; broadcasts.

  Returns:
    `psnr`, `ssim`: means over clips and frames, with `*_per_clip` [N] and
    `*_per_frame` [N][T]; `psnr_FLOOR`, `ssim_FLOOR` and their `*_per_clip`
    for FLOOR in unrelated, mean_frame and reference. `psnr_of_mean_error`: PSNR
    of the squared error's mean over all clips, which the worst ones decide.
    `num_exact` and `exact_per_clip`: see `is_exact`. Plain numbers and lists;
    every PSNR ends at CEILING, SSIM is None where it is undefined.
  """
  truth = _clips(truth)
  result = _scores('', recovered, truth)
  exact = is_exact(recovered, truth)
  result |= {
      'psnr_of_mean_error': float(decibels(
          squared_error(recovered, truth).mean())),
      'num_exact': int(exact.sum()), 'exact_per_clip': exact.tolist()}
  mean_colour = truth.mean(axis=(1, 2, 3), keepdims=True, dtype=np.float64)
  floors = {'_unrelated': unrelated, '_mean_frame': mean_colour}
  if reference is not None:
    floors['_reference'] = reference
  for name, clips in floors.items():
    floor = _scores(name, _broadcast(clips, truth.shape), truth)
    result |= {k: v for k, v in floor.items() if not k.endswith('_per_frame')}
  return result


def score_enhanced(enhanced: Array, bicubic: Array, original: Array) -> dict:
  """Scores super-resolution beside plain bicubic enlargement.

  Args:
    enhanced: [N, T, H, W, C] in [0, 1], the super-resolved recovery.
    bicubic: same shape, the same recovery enlarged without a network.
    original: same shape, the truth at high resolution.

  Returns:
    `psnr_enhanced`, `ssim_enhanced`, `psnr_bicubic`, `ssim_bicubic`, each
    with its `*_per_clip` [N] and `*_per_frame` [N][T].
  """
  original = _clips(original)
  return (_scores('_enhanced', enhanced, original)
          | _scores('_bicubic', bicubic, original))


def assign(recovered: Array, truth: Array) -> np.ndarray:
  """Which recovered clip answers which true one, within each message.

  The gradient of a batch is a sum, so the order of its clips cannot be known
  and is no part of the attack's answer. The order with the least mean squared
  error is taken, each clip used once, never across messages. It orders the
  scores only; nothing of it may return to an attack.

  Args:
    recovered: [M, B, T, H, W, C] clips, or anything else of them, [M, B, ...].
    truth: same shape.

  Returns:
    [M, B] integers: `recovered[m, order[m, b]]` answers `truth[m, b]`. Apply
    it to the recovered labels too.
  """
  from scipy.optimize import linear_sum_assignment
  recovered, truth = np.asarray(recovered), np.asarray(truth)
  if recovered.shape != truth.shape:
    raise UserError(f'Clips must have equal shapes, got {recovered.shape} and '
                    f'{truth.shape}.')
  if not np.isfinite(recovered).all():
    raise UserError('A recovery holds NaN or infinite values.')
  orders = []
  for guesses, clips in zip(recovered, truth, strict=True):
    cost = [np.mean((guesses - clip).reshape(len(guesses), -1) ** 2, axis=1)
            for clip in clips]
    orders.append(linear_sum_assignment(np.stack(cost))[1])
  return np.stack(orders)


def label_accuracy(recovered: Array, truth: Array) -> float:
  """The share of equal labels, both in the same order (see `assign`)."""
  recovered, truth = np.asarray(recovered), np.asarray(truth)
  if recovered.shape != truth.shape or not truth.size:
    raise UserError('Labels must have equal shapes and not be empty, got '
                    f'{recovered.shape} and {truth.shape}.')
  return float(np.mean(recovered == truth))


def relative_error(recovered: Array, truth: Array) -> float:
  """The largest |recovered - truth| / |truth| over vectors [..., F]."""
  recovered, truth = (np.asarray(x, np.float64) for x in (recovered, truth))
  size = np.linalg.norm(truth, axis=-1)
  error = np.linalg.norm(recovered - truth, axis=-1)
  return float(np.max(error / np.maximum(size, np.finfo(float).tiny)))


def _scores(suffix, clips, truth):
  """Both metrics, clip by clip, under the names of result.json."""
  clips = _clips(clips)
  _checked(clips, truth)
  result = {}
  for metric in (psnr, ssim):
    name = metric.__name__ + suffix
    frames = np.stack([metric(a, b) for a, b in zip(clips, truth, strict=True)])
    result[name] = _plain(frames.mean())
    result[f'{name}_per_clip'] = _plain(frames.mean(axis=1))
    result[f'{name}_per_frame'] = _plain(frames)
  return result


def _plain(values):
  """Floats and lists for JSON; NaN, where SSIM is undefined, as None."""
  return np.asarray(np.where(np.isnan(values), None, values)).tolist()


def _clips(clips):
  clips = np.asarray(clips)
  if clips.ndim != 5 or not clips.size:
    raise UserError(f'Clips must be [N, T, H, W, C], got {clips.shape}.')
  return clips


def _broadcast(clips, shape):
  try:
    return np.broadcast_to(clips, shape)
  except ValueError as error:
    raise UserError(f'A floor of shape {np.shape(clips)} does not broadcast to '
                    f'the truth of shape {shape}.') from error


def _checked(a, b):
  """Both as NumPy arrays, or a message that says what is wrong with them."""
  a, b = np.asarray(a), np.asarray(b)
  if a.shape != b.shape:
    raise UserError(
        f'Clips must have equal shapes, got {a.shape} and {b.shape}.')
  for x in (a, b):
    if not jnp.issubdtype(x.dtype, jnp.floating):
      raise UserError(f'Clips must be floats in [0, 1], got {x.dtype}. Divide '
                      'uint8 by 255 first.')
    low, high = float(x.min()), float(x.max())
    if not (low >= -TOLERANCE and high <= 1 + TOLERANCE):  # NaN fails too
      raise UserError(f'Clips must lie in [0, 1], got [{low:.6g}, {high:.6g}].')
  return a, b
