r"""Enlarges a video, an image, or the clips of a recovered.npz.

  vidleak enhance --input=runs/quick/recovered.npz --noise=0.015 \
      --output=runs/quick/enhanced.npz
  vidleak enhance --input=small.mp4 --output=large.mp4 --references=frame.png
"""

from pathlib import Path

from absl import flags

from vidleak_jax.experiments import enhancement
from vidleak_jax.runtime.progress import Terminal


def define_flags() -> None:
  """Defines the flags of this program."""
  flags.DEFINE_string(
      'input', None, 'A video, an image, or an .npz with `clips`.',
      required=True)
  flags.DEFINE_string(
      'output', None, 'An .npz, .mp4 or .png.', required=True)
  flags.DEFINE_list(
      'references', [], 'Images or videos of the scene, at the enlarged size.')
  flags.DEFINE_string(
      'weights', None, 'ESRGAN, Real-ESRGAN or own weights, or `perceptual`: '
      'sharper, further from the original. Default: the shipped ones.')
  flags.DEFINE_integer(
      'scale', 4, 'How many times the weights enlarge.', 1)
  flags.DEFINE_float(
      'noise', 0.0, "Standard deviation of the input's errors; 0: true frames.",
      0, 1)
  flags.DEFINE_integer(
      'adapt_steps', 300, 'Training steps on the references; 0: none.', 0)
  flags.DEFINE_integer('tile', 128, 'Side of a tile, in small pixels.', 8)
  flags.DEFINE_integer(
      'batch_size', 4, 'Tiles that a device computes at once.', 1)
  flags.DEFINE_integer('num_devices', 0, 'Devices to use; 0: all.', 0)


def main() -> None:
  """Runs the program on the flags that were parsed."""
  args = flags.FLAGS
  with Terminal() as lines:
    shape = enhancement.run(
        Path(args.input), Path(args.output),
        [*map(Path, args.references)], weights=args.weights,
        scale=args.scale, noise=args.noise,
        adapt_steps=args.adapt_steps, tile=args.tile,
        batch_size=args.batch_size, num_devices=args.num_devices,
        progress=lines)
  print(f'{args.output}: {shape[0]} clips of {shape[1]} frames, '
        f'{shape[2]}x{shape[3]}')
