"""Small clips to large ones, with or without reference frames."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from vidleak_jax.superres import degrade, network, reference, upscale
from vidleak_jax.types import Array, UserError

# Trained by configs/train_superres.py: x4, five frames, 449 kB.
SHIPPED = Path(__file__).parent / 'clip_x4.safetensors'
_CORRECTIONS = 2  # steps towards a clip that shrinks to the given one


def enhance(
    clips: Array, references: Array | None = None, *,
    weights: str | os.PathLike | None = None, scale: int = 4,
    noise: float = 0.0, tile: int = 128, batch_size: int = 4,
    devices: Sequence[jax.Device] | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> np.ndarray:
  """Enlarges clips [N, T, H, W, C] in [0, 1].

  True frames (noise 0) end up consistent: shrunk again they are the given ones.
  With noise, what a matching reference shows replaces the recovery; without,
  it only adds the detail.

  Args:
    clips: recovered, or true small frames.
    references: [N, R, scale H, scale W, C] in [0, 1], R frames of the scene of
      each clip, cropped as the clip.
    weights: a file as `superres.weights` reads; `SHIPPED` if None.
    scale: original_size / image_size; must be that of the weights.
    noise: standard deviation of the clips' errors as far as the attacker can
      know it; 0 for true frames. 0.03 serves for what `ig` leaves.
    tile: side of the tiles in which frames are computed, in small pixels.
    batch_size: tiles at once on a device.
    devices: one by default.
    report: called with tiles done and in all.

  Returns:
    float32 [N, T, scale H, scale W, C] in [0, 1].

  Raises:
    UserError: for weights that cannot be used or are of another scale,
      references of another size, or too little memory.
  """
  clips = np.asarray(clips, np.float32)
  net, params = load(weights, scale)
  run = lambda clips, report: upscale.upscale(  # noqa: E731
      net, params, clips, noise=noise, tile=tile, batch_size=batch_size,
      devices=devices, report=report)
  large = run(clips, report)
  if references is not None:
    references = _checked(references, large.shape)
    large = np.stack([
        _with_references(clip, frames, run, net.scale, noise)
        for clip, frames in zip(large, references)])
  return large if noise else _consistent(large, clips)


def load(weights: str | os.PathLike | None, scale: float) -> tuple:
  """(network, params) of a weights file, `SHIPPED` if None.

  Raises:
    UserError: for weights that cannot be used or are of another scale.
  """
  path = Path(weights or SHIPPED)
  net, params = network.load(path)
  if net.scale != scale:
    raise UserError(f'{path.name} enlarges by {net.scale}, but '
                    f'original_size / image_size asks for {scale:g}. Choose '
                    'other weights, or sizes of that ratio.')
  return net, params


def _with_references(clip, references, run, scale, noise):
  small = np.asarray(degrade.bicubic(references, scale))
  seen = run(small[:, None], lambda done, total: None)[:, 0]
  return reference.transfer(clip, references, seen, replace=float(noise > 0))


def _consistent(large, small):
  """Back-projection (Irani and Peleg 1991): adds the enlarged shortfall."""
  for _ in range(_CORRECTIONS):
    short = small - degrade.resize(large, *small.shape[2:4])
    large = np.asarray(jnp.clip(
        large + degrade.resize(short, *large.shape[2:4]), 0, 1))
  return large


def _checked(references, shape):
  references = np.asarray(references, np.float32)
  n, _, *frame = shape
  if references.ndim != 5 or references.shape[0] != n or not (
      references.shape[1]) or references.shape[2:] != tuple(frame):
    raise UserError(
        f'References must be [{n}, R, {", ".join(map(str, frame))}], R frames '
        f'for each clip in its own crop and the enlarged size; got '
        f'{references.shape}.')
  if min(frame[:2]) < reference.PATCH:
    raise UserError(f'References are matched in patches of {reference.PATCH} '
                    f'pixels; enlarged frames of {frame[0]}x{frame[1]} are '
                    'smaller.')
  if not (references.min() >= 0 and references.max() <= 1):
    raise UserError('References must lie in [0, 1], got '
                    f'[{references.min():.6g}, {references.max():.6g}].')
  return references
