"""Super-resolution alone: files in, a file out."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vidleak_jax import files, parallel, superres
from vidleak_jax.data import decode
from vidleak_jax.data.clips import Unusable
from vidleak_jax.progress import Progress
from vidleak_jax.types import UserError

_IMAGES = ('.png', '.jpg', '.jpeg', '.bmp')
_FPS = 8.0  # of what does not say


def run(source: Path, target: Path, references: Sequence[Path] = (), *,
        weights: str | None = None, scale: int = 4, noise: float = 0.0,
        tile: int = 128, batch_size: int = 4, num_devices: int = 0,
        ) -> tuple[int, ...]:
  """Enlarges a file; returns the shape [N, T, H, W, C] that was written.

  Args:
    source: a video, an image, or an .npz with `clips` [N, T, H, W, C] in
      [0, 1], such as recovered.npz.
    target: .npz (`enhanced`), .mp4 (clips one after another), or .png (first
      frame of the first clip).
    references: images or videos (all frames), of the enlarged size; they serve
      every clip.
    weights: as in `superres.enhance`, like scale, noise, tile and batch_size.
    num_devices: 0 takes all.

  Raises:
    UserError: for files that cannot be read or written so, and as `enhance`.
  """
  if target.suffix not in _WRITERS:
    raise UserError(f'The output is {target.name!r}; it can be '
                    f'{", ".join(_WRITERS)}.')
  clips, fps = read(source)
  held = None
  if references:
    held = [np.concatenate(read(path)[0]) for path in references]
    sizes = {frames.shape[1:] for frames in held}
    if len(sizes) > 1:
      raise UserError(f'The references differ in size: {sorted(sizes)}. Crop '
                      'and resize them as the enlarged clip.')
    held = np.concatenate(held)
    held = np.broadcast_to(held, (len(clips), *held.shape))
  with Progress(clips.shape[0] * clips.shape[1], 'enhance') as progress:
    large = superres.enhance(
        clips, held, weights=weights, scale=scale, noise=noise, tile=tile,
        batch_size=batch_size, devices=parallel.pick_devices(num_devices),
        report=lambda done, total: progress.update(
            done * clips.shape[0] * clips.shape[1] // total))
  target.parent.mkdir(parents=True, exist_ok=True)
  _WRITERS[target.suffix](target, large, fps)
  return large.shape


def read(path: Path) -> tuple[np.ndarray, float]:
  """Clips float32 [N, T, H, W, C] in [0, 1] and frames per second.

  Raises:
    UserError: for what is missing, broken, or holds no clips.
  """
  if not path.is_file():
    raise UserError(f'There is no file {path}.')
  try:
    if path.suffix == '.npz':
      with np.load(path, allow_pickle=False) as archive:
        clips = archive['clips'].astype(np.float32)
      if clips.ndim != 5:
        raise UserError(f'`clips` in {path} must be [N, T, H, W, C], got '
                        f'{clips.shape}.')
      return clips, _FPS
    if path.suffix.lower() in _IMAGES:
      from PIL import Image
      frames, fps = np.asarray(Image.open(path).convert('RGB'))[None], _FPS
    else:
      facts = decode.probe(path)
      frames = np.stack(decode.read(path, facts.num_frames, np.arange)[1])
      fps = facts.fps or _FPS
  except (Unusable, OSError, KeyError, ValueError) as error:
    if isinstance(error, UserError):
      raise
    raise UserError(f'{path} cannot be used: {error}. Give a video, an image, '
                    'or an .npz with `clips`.') from error
  return frames[None].astype(np.float32) / 255, fps


def _write_npz(target, clips, fps):
  files.write_arrays(target, enhanced=clips)


def _write_png(target, clips, fps):
  from PIL import Image
  with files.replacing(target) as partial:
    Image.fromarray(_pixels(clips[0, 0])).save(partial)


def _write_mp4(target, clips, fps):
  from fractions import Fraction

  import av
  codec = 'libx264' if 'libx264' in av.codecs_available else 'mpeg4'
  frames = clips.reshape(-1, *clips.shape[2:])
  with files.replacing(target) as partial, av.open(
      str(partial), 'w') as container:
    stream = container.add_stream(codec, Fraction(fps).limit_denominator(1000))
    stream.height, stream.width = (n - n % 2 for n in frames.shape[1:3])
    stream.pix_fmt, stream.bit_rate = 'yuv420p', 16_000_000
    for frame in frames:  # chroma is stored at half size: sides must be even
      pixels = _pixels(frame[:stream.height, :stream.width])
      container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
    container.mux(stream.encode())


def _pixels(frame):
  return np.ascontiguousarray(np.round(255 * frame).astype(np.uint8))


_WRITERS = {'.npz': _write_npz, '.mp4': _write_mp4, '.png': _write_png}
