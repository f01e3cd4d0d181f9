"""Small clips to large ones, with or without reference frames."""

import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from vidleak_jax.runtime.session import Report
from vidleak_jax.superres import adapt, degrade, network, reference, upscale
from vidleak_jax.superres.steady import steady
from vidleak_jax.types import Array, UserError

# Both x4, five frames, 449 kB. The default is trained by
# configs/train_superres.py and comes nearest to the original; `perceptual` by
# configs/train_superres_gan.py: sharper, and further from it.
SHIPPED = Path(__file__).parent / 'clip_x4.safetensors'
_NAMED = {'perceptual': SHIPPED.with_stem('clip_x4_perceptual')}
_CORRECTIONS = 2  # steps towards a clip that shrinks to the given one


def enhance(clips: Array, references: Array | None = None,
            **options) -> np.ndarray:
  """Enlarges clips [N, T, H, W, C] in [0, 1].

  Args:
    clips: recovered, or true small frames.
    references: [N, R, scale H, scale W, C] in [0, 1], R frames of the scene of
      each clip, cropped as the clip.
    **options: of `scene`.

  Returns:
    float32 [N, T, scale H, scale W, C] in [0, 1].

  Raises:
    UserError: for weights that cannot be used or are of another scale,
      references of another number or size, or too little memory.
  """
  if references is None:
    return scene(**options)(clips)
  if len(references) != len(clips):
    raise UserError(f'References must be [{len(clips)}, R, H, W, C], R frames '
                    f'for each clip; got {np.shape(references)}.')
  return np.concatenate([scene(held, **options)(clip[None])
                         for clip, held in zip(clips, references)])


def scene(
    references: Array | None = None, *,
    weights: str | os.PathLike | None = None, scale: float = 4,
    noise: float = 0.0, adapt_steps: int = adapt.NUM_STEPS, tile: int = 128,
    batch_size: int = 4, devices: Sequence[jax.Device] | None = None,
    progress: Report | None = None,
) -> Callable[[Array], np.ndarray]:
  """What enlarges the clips of one scene; it learns its references once.

  True frames (noise 0) end up consistent: shrunk again they are the given ones.
  With noise, clips are steadied first, as far as they tremble, and what a
  matching reference shows replaces the recovery; without, it only adds the
  detail. Two networks answer where there are references, the given one and that
  one adapted to them; their mean is better than either.

  Args:
    references: [R, H, W, C] in [0, 1], as large as the enlarged frames.
    weights: a file as `superres.weights` reads; `SHIPPED` if None; 'perceptual'
      for the other network that is shipped.
    scale: original_size / image_size; must be that of the weights.
    noise: standard deviation of the clips' errors as far as the attacker can
      know it; 0 for true frames. 0.015 did best on what `ig` leaves,
      though its errors are twice that.
    adapt_steps: of training on the references; 0 for none. Some seconds for the
      shipped network; large ones take minutes.
    tile: side of the tiles in which frames are computed, in small pixels.
    batch_size: tiles at once on a device.
    devices: one by default.
    progress: hears how far the network has adapted to the references.

  Returns:
    clips [N, T, H, W, C] -> float32 [N, T, scale H, scale W, C] in [0, 1].
  """
  net, params = load(weights, scale)
  run = functools.partial(
      upscale.upscale, net, noise=noise, tile=tile, batch_size=batch_size,
      devices=devices)

  def mended(clips):
    clips = upscale.checked(clips, net)
    return steady(clips) if noise else clips

  finish = (lambda large, _: large) if noise else _consistent
  if references is None:
    return lambda clips: finish(run(params, mended(clips)), clips)
  references = _checked(references, net)

  @functools.cache
  def learn():
    """(params, references shrunk and enlarged again) of both networks."""
    both = [params]
    if adapt_steps:
      both.append(adapt.adapt(
          net, params, references, noise=noise, num_steps=adapt_steps,
          progress=progress))
    small = np.asarray(degrade.bicubic(references, net.scale))
    return [(each, run(each, small[:, None])[:, 0]) for each in both]

  def answer(clips, params, seen):
    return np.stack([
        reference.transfer(large, references, seen, replace=float(noise > 0))
        for large in run(params, clips)])

  def enlarge(clips):
    _match(references, clips, net.scale)  # before seconds of learning
    clips = mended(clips)
    return finish(np.mean([answer(clips, *one) for one in learn()], axis=0),
                  clips)
  return enlarge


def load(weights: str | os.PathLike | None, scale: float) -> tuple:
  """(network, params) of what `scene` takes as weights.

  Raises:
    UserError: for weights that cannot be used or are of another scale.
  """
  path = _NAMED.get(str(weights), Path(weights or SHIPPED))
  net, params = network.load(path)
  if net.scale != scale:
    raise UserError(f'{path.name} enlarges by {net.scale}, but '
                    f'{scale:g} is asked for (data.original_size / '
                    'data.image_size, or --scale). Choose '
                    'other weights, or sizes of that ratio.')
  return net, params


def _consistent(large, small):
  """Back-projection (Irani and Peleg 1991): adds the enlarged shortfall."""
  for _ in range(_CORRECTIONS):
    short = small - degrade.resize(large, *small.shape[2:4])
    large = np.asarray(jnp.clip(
        large + degrade.resize(short, *large.shape[2:4]), 0, 1))
  return large


def _checked(references, net):
  references = np.asarray(references, np.float32)
  channels = net.module.channels
  if references.ndim != 4 or not len(references) or (
      references.shape[-1] != channels):
    raise UserError(f'References must be [R, H, W, {channels}], R frames of '
                    f'the scene; got {references.shape}.')
  if min(references.shape[1:3]) < reference.PATCH:
    raise UserError(f'References are matched in patches of {reference.PATCH} '
                    f'pixels; frames of {references.shape[1]}x'
                    f'{references.shape[2]} are smaller.')
  if not (references.min() >= 0 and references.max() <= 1):
    raise UserError('References must lie in [0, 1], got '
                    f'[{references.min():.6g}, {references.max():.6g}].')
  return references


def _match(references, clips, scale):
  """Refuses references of another crop or size than the enlarged clips."""
  height, width = (scale * n for n in np.shape(clips)[2:4])
  if references.shape[1:3] != (height, width):
    raise UserError(
        f'References are {references.shape[1]}x{references.shape[2]}, the '
        f'enlarged clip {height}x{width} (height x width). Crop and resize '
        'them as the clip.')
