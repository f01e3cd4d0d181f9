"""Enlarges a video, an image, or the clips of a recovered.npz.

  python launch/enhance.py --input=runs/quick/recovered.npz --noise=0.015 \
      --output=runs/quick/enhanced.npz
  python launch/enhance.py --input=small.mp4 --output=large.mp4 \
      --references=frame.png
"""

from pathlib import Path

from absl import flags

from vidleak_jax.cli import launcher
from vidleak_jax.experiments import enhancement

_INPUT = flags.DEFINE_string(
    'input', None, 'A video, an image, or an .npz with `clips`.', required=True)
_OUTPUT = flags.DEFINE_string(
    'output', None, 'An .npz, .mp4 or .png.', required=True)
_REFERENCES = flags.DEFINE_list(
    'references', [], 'Images or videos of the scene, of the enlarged size.')
_WEIGHTS = flags.DEFINE_string(
    'weights', None, 'ESRGAN, Real-ESRGAN or own weights, or `perceptual`: '
    'sharper, further from the original. Default: the shipped ones.')
_SCALE = flags.DEFINE_integer('scale', 4, 'Of the weights.')
_NOISE = flags.DEFINE_float(
    'noise', 0.0, 'Standard deviation of the input\'s errors; 0: true frames.')
_ADAPT_STEPS = flags.DEFINE_integer(
    'adapt_steps', 300, 'Of training on the references; 0: none.')
_TILE = flags.DEFINE_integer('tile', 128, 'Side of a tile, in small pixels.')
_BATCH_SIZE = flags.DEFINE_integer('batch_size', 4, 'Tiles at once a device.')
_NUM_DEVICES = flags.DEFINE_integer('num_devices', 0, '0: all.')


def main() -> None:
  shape = enhancement.run(
      Path(_INPUT.value), Path(_OUTPUT.value), [*map(Path, _REFERENCES.value)],
      weights=_WEIGHTS.value, scale=_SCALE.value, noise=_NOISE.value,
      adapt_steps=_ADAPT_STEPS.value, tile=_TILE.value,
      batch_size=_BATCH_SIZE.value, num_devices=_NUM_DEVICES.value)
  print(f'{_OUTPUT.value}: {shape[0]} clips of {shape[1]} frames, '
        f'{shape[2]}x{shape[3]}')


if __name__ == '__main__':
  launcher.run(main)
