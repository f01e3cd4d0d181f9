"""Frames of a scene from the scene's reference frames and exact features.

The features tell how far a private frame is from each reference, not where it
differs: 64 numbers a frame are matched by changes nobody could see. So nothing
is painted into a reference. What is known is how much each may be trusted: a
frame is a mixture, pixel by pixel, of the reference nearest in feature space,
of means over references weighted by that distance, shifted ones among them, as
the camera may have moved, and of blurs, the best guess of what has moved. A
small network that is trained on public scenes chooses the shares; everything it
looks at is a distance or a contrast, never a colour, so that it carries over to
other scenes.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vidleak_jax.types import Array, Params, PRNGKey

_BLURS = (0.7, 1.5, 3.0, 8.0)  # pixels
_FAR = 1e6       # distance of a reference that is not held
_NEAR = 1e-3     # below this distances are alike
_POWERS = 2, 4, 8  # of distances, for means over shifted references
_SMOOTH = 0.1, 1.0  # ridge of kriging, of the references' mean distance
_WIDTH = 32
_SHIFTS = -5, -2, 0, 2, 5  # pixels, of the references' variants


def blend(
    params: Params, scale: Array, features: Array, references: Array,
    reference_features: Array, held: Array | None = None,
) -> Array:
  """The clip that a trained mixture makes of the references.

  Args:
    params: from `train.run`, or `init`.
    scale: [F] the features' spread over public frames.
    features: [T, F] of the private frames.
    references: [R, S, S, 3] in [0, 1].
    reference_features: [V, R, F], of their `variants`.
    held: [R] bool, which of them there are; all if None.

  Returns:
    [T, S, S, 3] in [0, 1].
  """
  if held is None:
    held = jnp.ones(len(references), bool)
  mine, all_theirs = features / scale, reference_features / scale
  theirs = all_theirs[len(all_theirs) // 2]  # those that are not shifted
  gaps = jnp.mean((mine[:, None] - theirs) ** 2, -1)
  distance = jnp.where(held, gaps, _FAR)
  moved = jnp.mean((mine[:, None, None] - all_theirs) ** 2, -1)  # [T, V, R]
  moved = moved * jnp.exp(params['log_effort'])[:, None]
  moved = jnp.where(held, moved, _FAR).reshape(len(mine), -1)
  between = jnp.mean((theirs[:, None] - theirs) ** 2, -1)
  lines = [_kriging(gaps, between, held, p) for p in _SMOOTH]
  bank = variants(references).reshape(-1, *references.shape[1:])
  shifted = [_mean(moved, p, bank) for p in _POWERS]
  candidates = _candidates(distance, references, held, lines, shifted)
  context = _context(distance, candidates, references, moved)
  shares = _Shares(len(candidates)).apply({'params': params['net']}, context)
  return jnp.einsum('kthwc,thwk->thwc', candidates, nn.softmax(shares))


def variants(references: Array) -> Array:
  """[V, R, S, S, 3]: the references, shifted as a camera's motion would.

  Which of them a private frame is like, the extractor tells. Beyond its border
  a reference goes on as it ends.
  """
  size = references.shape[1]
  at = [jnp.clip(jnp.arange(size) + s, 0, size - 1) for s in _SHIFTS]
  return jnp.stack([references[:, rows][:, :, columns]
                    for rows in at for columns in at])


def init(key: PRNGKey, size: int = 8) -> Params:
  """Params before training; they fit frames of any size."""
  distance, references = jnp.ones((1, 1)), jnp.zeros((1, size, size, 3))
  candidates = _candidates(distance, references, jnp.ones(1, bool),
                           [distance] * len(_SMOOTH),
                           [references] * len(_POWERS))
  context = _context(distance, candidates, references, distance)
  net = _Shares(len(candidates)).init(key, context)['params']
  return {'net': net, 'log_effort': jnp.zeros(len(_SHIFTS) ** 2)}


def error(params: Params, scale: Array, clips: Array, *scenes) -> Array:
  """Mean of the log squared error of each frame: minus what PSNR measures.

  Args:
    params: see `blend`, as is `scale`.
    clips: [N, T, S, S, 3] the truth of public scenes.
    *scenes: the further arguments of `blend`, with a leading axis N.
  """
  found = jax.vmap(lambda *scene: blend(params, scale, *scene))(*scenes)
  squares = jnp.mean((found - clips) ** 2, axis=(-3, -2, -1))
  return jnp.mean(jnp.log(squares + 1e-4))


class _Shares(nn.Module):
  """From a pixel's context to its mixture, in logits."""
  num_candidates: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    for i in range(2):
      x = nn.gelu(nn.Dense(_WIDTH, name=f'dense{i}')(x))
    return nn.Dense(self.num_candidates, name='out')(x)


def _kriging(gaps, between, held, ridge):
  """[T, R] weights w of sum 1 whose sum w f_r comes close to a frame's f.

  There |f - sum w f_r|^2 = w . gaps - w . between . w / 2. A ridge keeps them
  small; a multiple of 1 1^T changes nothing and makes the system definite.
  """
  pairs = held[:, None] & held
  top = jnp.max(jnp.where(pairs, between, 0.0)) + _NEAR
  system = jnp.where(pairs, top - between, 0.0) + jnp.diag(
      jnp.where(held, ridge * top, 1.0))
  ones = held.astype(gaps.dtype)
  free = jnp.linalg.solve(system, -(gaps * ones).T).T
  unit = jnp.linalg.solve(system, ones)
  return free + unit * (1 - free.sum(1, keepdims=True)) / unit.sum()


def _candidates(distance, references, held, lines, shifted):
  """[K, T, S, S, 3]: nearest, means of several sharpness, blurs."""
  nearest = references[distance.argmin(1)]
  sharp, soft = (_mean(distance, p, references) for p in (2, 1))
  plain = jnp.broadcast_to(
      jnp.einsum('r,rhwc->hwc', held / held.sum(), references), sharp.shape)
  still = jnp.broadcast_to(sharp.mean(0), sharp.shape)
  return jnp.stack([
      nearest, sharp, soft, plain, still,
      *(jnp.einsum('tr,rhwc->thwc', w, references) for w in lines),
      *shifted, _blur(shifted[0], _BLURS[0]), _blur(shifted[1], _BLURS[1]),
      *(_blur(sharp, s) for s in _BLURS), _blur(plain, _BLURS[1])])


def _mean(distance, power, images):
  weights = (distance + _NEAR) ** -power
  weights = weights / weights.sum(1, keepdims=True)
  return jnp.einsum('tr,rhwc->thwc', weights, images)


def _context(distance, candidates, references, moved):
  """[T, S, S, .] contrasts between candidates, distances, the position."""
  (nearest, sharp, _, plain, still, line, _, moving, _, best, _, _, *blurs,
   _) = candidates
  around = blurs[:-1]
  spread = _mean(distance, 1, references ** 2) - candidates[2] ** 2
  pairs = ((nearest, plain), (nearest, sharp), (sharp, still), (sharp, line),
           (moving, best), (sharp, moving), (sharp, around[0]),
           (sharp, around[1]), (around[0], around[2]), (around[2], blurs[-1]))
  maps = [jnp.sqrt(jnp.maximum(spread, 0.0) + 1e-6), *(a - b for a, b in pairs)]
  maps = [jnp.mean(jnp.abs(m), -1, keepdims=True) for m in maps]
  maps = [m for one in maps for m in (one, _blur(one, 1.5))]
  near = distance.min(1)
  count = jnp.sum(distance < _FAR / 2, 1)
  far = jnp.sum(jnp.where(distance < _FAR / 2, distance, 0.0), 1) / count
  numbers = [jnp.log(near + _NEAR), jnp.log(far + _NEAR),
             jnp.broadcast_to(jnp.log(near.mean() + _NEAR), near.shape),
             jnp.log(moved.min(1) + _NEAR) - jnp.log(near + _NEAR),
             jnp.log(count.astype(near.dtype))]
  shape = maps[0].shape
  numbers = [jnp.broadcast_to(n[:, None, None, None], shape) for n in numbers]
  rows = jnp.linspace(-1, 1, shape[1])
  place = [jnp.broadcast_to(rows[None, :, None, None], shape),
           jnp.broadcast_to(rows[None, None, :, None] ** 2, shape)]
  logs = [jnp.log(m + 0.01) + 3 for m in maps]
  return jnp.concatenate([*logs, *numbers, *place], -1)


def _blur(images, sigma):
  """Gaussian blur over H and W that keeps constants."""
  height, width = (_gaussian(n, sigma) for n in images.shape[-3:-1])
  return jnp.einsum('ih,jw,...hwc->...ijc', height, width, images)


def _gaussian(n, sigma):
  at = jnp.arange(n)
  kernel = jnp.exp(-(at[:, None] - at) ** 2 / (2 * sigma ** 2))
  return kernel / kernel.sum(1, keepdims=True)
