"""What may be asked of the data stage, and what is said otherwise."""

from absl import logging

from vidleak_jax import types
from vidleak_jax.data.clips import Clip, Source


def request(num_clips: int, num_frames: int, frame_stride: int, image_size: int,
            original_size: int, seed: int) -> None:
  """Raises UserError where a number is out of range."""
  for what, value in (('num_clips', num_clips), ('num_frames', num_frames),
                      ('frame_stride', frame_stride)):
    if value < 1:
      raise types.UserError(f'data.{what} is {value}; it must be 1 or more.')
  for what, value in (('image_size', image_size),
                      ('original_size', original_size)):
    if value < 2 or value % 2:
      raise types.UserError(
          f'data.{what} is {value}; it must be even and positive, such as 32.')
  if original_size < image_size:
    raise types.UserError(
        f'original_size is {original_size}, less than image_size {image_size}. '
        'Super-resolution is scored against originals at least as large.')
  if seed < 0:
    raise types.UserError(f'seed is {seed}; it must not be negative.')


def class_names(source: Source, labels: str,
                num_classes: int | None) -> tuple[str, ...]:
  """What the labels stand for; raises UserError if they do not fit."""
  if labels == 'random':
    if not num_classes or num_classes < 1:
      raise types.UserError(
          f'Random labels are drawn from num_classes, which is {num_classes}. '
          'Set it to the number of outputs of the victim.')
    return tuple(map(str, range(num_classes)))
  if labels != 'dataset':
    raise types.UserError(
        f'Unknown labels {labels!r}. Choose one of: dataset, random.')
  if not source.class_names:
    raise types.UserError('This set has no labels. Use random labels.')
  if num_classes is not None and num_classes < len(source.class_names):
    raise types.UserError(
        f'The set has {len(source.class_names)} classes, num_classes is '
        f'{num_classes}. Set it to at least {len(source.class_names)}.')
  return source.class_names


def usable(skipped: dict[str, str], any_clip: bool) -> None:
  """Logs the skipped videos; raises UserError if there was nothing else."""
  reasons = [f'{video}: {why}' for video, why in skipped.items()]
  shown = '; '.join(reasons[:5])
  if len(reasons) > 5:
    shown += f'; and {len(reasons) - 5} more'
  if not any_clip:
    raise types.UserError(
        f'No video can be used: {shown}. Replace the files, or ask for fewer '
        'frames or a smaller stride.')
  if reasons:
    logging.warning('Skipped %d videos: %s.', len(reasons), shown)


def detail(clips: list[Clip], size: int) -> None:
  """Warns where the originals cannot be as sharp as their size says."""
  side = min(min(clip.frames[0].shape[:2]) for clip in clips)
  if side < size:
    logging.warning(
        'Originals of %d pixels are asked for, but the smallest video has %d: '
        'its originals are upscaled and hold no more detail.', size, side)
