"""From exact features to frames, with or without reference frames."""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from vidleak_jax.attacks.features import mixture
from vidleak_jax.models import weights
from vidleak_jax.types import Array, Victim

# Trained by launch/train_blend.py for 32x32 frames and the features of two
# ResNet-20s: ours, and the one for CIFAR-10.
SHIPPED = tuple(Path(__file__).with_name(f'blend_{name}.safetensors')
                for name in ('photo_motion', 'cifar10'))
_BATCH = 128  # frames that the extractor sees at once
_RIDGE = 0.01


def recover_frames(
    extract: Callable[[Array], Array],
    features: np.ndarray,
    size: int,
    references: np.ndarray | None,
    *,
    path: str | None,
    num_scenes: int,
    seed: int,
) -> np.ndarray:
  """Clips from the features of their frames.

  Args:
    extract: the frozen extractor, frames [B, S, S, 3] to [B, F].
    features: [N, T, F].
    size: S.
    references: [N, R, S, S, 3] in [0, 1], or None.
    path: of trained params of `blend`; None: of those that are shipped, the
      ones that do best on public scenes.
    num_scenes: public scenes that are looked at: they give the features'
      spread, and without references the decoder.
    seed: of those scenes.

  Returns:
    float32 [N, T, S, S, 3] in [0, 1].

  Raises:
    UserError: for params that do not fit.
  """
  from vidleak_jax.attacks.features import scenes  # draws pictures
  public = np.stack([*scenes.scenes(
      num_scenes, 1, 1, size, seed, num_textures=min(400, num_scenes))])
  public = public.reshape(-1, size, size, 3).astype(np.float32) / 255
  known = extract_all(extract, public)
  scale = known.std(0) + 1e-6
  if references is None or not references.shape[1]:
    return _decode(features, known, public, scale)
  params = load(path) if path else _fitting(extract, scale, size, seed)
  mix = jax.jit(mixture.blend)
  clips = []
  for mine, held in zip(features.astype(np.float32), references, strict=True):
    bank = np.asarray(mixture.variants(jnp.asarray(held)))
    theirs = extract_all(extract, bank.reshape(-1, *held.shape[1:]))
    clips.append(mix(params, scale, mine, held,
                     theirs.reshape(*bank.shape[:2], -1)))
  return np.clip(np.stack(clips), 0, 1)


def frame_extractor(victim: Victim) -> Partial:
  """Returns a victim's extractor for frames, [B, S, S, 3] to [B, F].

  It is a pytree of the extractor's weights where the victim's is one, so that
  programs take them as arguments.
  """
  whole = victim.features
  return Partial(_of_frames, whole if isinstance(whole, Partial)
                 else Partial(whole))


def _of_frames(whole, frames):
  return whole(frames[:, None])[:, 0]


@jax.jit
def _run(extract, frames):
  return extract(frames)


def extract_all(
    extract: Callable[[Array], Array], frames: np.ndarray) -> np.ndarray:
  """Returns features [B, F] of float frames [B, S, S, 3].

  Args:
    extract: of `frame_extractor`, or any function of frames.
    frames: they run in batches of one shape.
  """
  if not isinstance(extract, Partial):
    extract = Partial(extract)
  padded = np.pad(frames, [(0, -len(frames) % _BATCH), *[(0, 0)] * 3])
  found = [_run(extract, padded[i:i + _BATCH])
           for i in range(0, len(padded), _BATCH)]
  return np.concatenate(found)[:len(frames)]


def load(path: str | Path) -> dict:
  """Params of `blend`, from a file of `launch/train_blend.py`."""
  path = Path(path)
  params, report = weights.load(
      jax.eval_shape(mixture.init, jax.random.key(0)), path, ())
  weights.require_all(report, path)
  return params


def _fitting(extract, scale, size, seed):
  """The shipped params that suit this extractor: it may be any."""
  from vidleak_jax.attacks.features import scenes
  drawn = np.stack([*scenes.scenes(12, 2, 3, size, seed, num_textures=40)])
  clips, held = np.split(drawn.astype(np.float32) / 255, [2], axis=1)
  banks = np.stack([mixture.variants(jnp.asarray(each)) for each in held])
  mine, theirs = (
      extract_all(extract, frames.reshape(-1, *frames.shape[-3:])).reshape(
          *frames.shape[:-3], -1) for frames in (clips, banks))
  error = jax.jit(mixture.error)
  return min(map(load, SHIPPED), key=lambda params: float(
      error(params, scale, clips, mine, held, theirs)))


def _decode(features, known, public, scale):
  """Ridge regression from features to pixels, fitted on public frames.

  Nothing tells where in a frame things are but the extractor's borders, so all
  frames of a clip get the mean of what is found for each.
  """
  mean = known.mean(0)

  def design(f):
    z = np.clip((f - mean) / scale, -4, 4)
    return np.concatenate([np.ones((len(z), 1)), z], 1)

  inputs = design(known)
  goal = public.reshape(len(public), -1)
  gram = inputs.T @ inputs + _RIDGE * len(inputs) * np.eye(inputs.shape[1])
  decoder = np.linalg.solve(gram, inputs.T @ goal)
  count, frames, width = features.shape
  found = design(features.reshape(-1, width)) @ decoder
  found = found.reshape(count, frames, *public.shape[1:]).mean(1, keepdims=True)
  return np.clip(np.repeat(found, frames, 1), 0, 1).astype(np.float32)
