"""R3D-18 and R(2+1)D-18 (Tran et al., 1711.11248), as torchvision has them."""

from vidleak_jax.models.resnet import ResNet, Size, Style
from vidleak_jax.types import Victim, pick
from vidleak_jax.victims import base

_STEM = (3, 7, 7), (1, 2, 2)
PRESETS = {
    'tiny': Size((3, 3, 3), (1, 2, 2), 4, (4, 4, 8, 8), (1, 1, 1, 1),
                 stem_middle=3),
    'small': Size(*_STEM, 16, (16, 32, 64, 128), (2, 2, 2, 2), stem_middle=12),
    'full': Size(*_STEM, 64, (64, 128, 256, 512), (2, 2, 2, 2),
                 stem_middle=45),
}

# From torchvision's names.
_BLOCKS = (
    (r'^layer(\d+)\.(\d+)\.', lambda m: f'stage{int(m[1]) - 1}_{m[2]}.'),
    (r'\bconv(\d+)\.', lambda m: f'unit{int(m[1]) - 1}.'),
    (r'\bdownsample\.0', 'shortcut.conv'),
    (r'\bdownsample\.1', 'shortcut.norm'),
    (r'^fc', 'head'),
)
R3D18_NAMES = (
    *_BLOCKS,
    (r'(unit\d+|stem)\.0', r'\1.conv'),
    (r'(unit\d+|stem)\.1', r'\1.norm'),
)
R2PLUS1D18_NAMES = (
    *_BLOCKS,
    (r'stem\.0', 'stem.space'),
    (r'stem\.1', 'stem.space_norm'),
    (r'stem\.3', 'stem.conv'),
    (r'stem\.4', 'stem.norm'),
    (r'(unit\d+)\.0\.0', r'\1.space'),
    (r'(unit\d+)\.0\.1', r'\1.space_norm'),
    (r'(unit\d+)\.0\.3', r'\1.conv'),
    (r'(unit\d+)\.1', r'\1.norm'),
)


def r3d18(
    clip_shape: tuple[int, ...],
    num_classes: int,
    *,
    preset: str = 'small',
    activation: str = 'relu',
    norm: str = 'fixed',
    inputs: str = 'unit',
    lowering: str = 'matmul',
) -> Victim:
  """ResNet-18 with 3x3x3 convolutions.

  Args:
    clip_shape: (T, H, W, C).
    num_classes: K.
    preset: a name of `PRESETS`; 'full' is torchvision's.
    activation: a name of `layers.ACTIVATIONS`.
    norm: a name of `norms.NORMS`.
    inputs: a name of `layers.INPUTS`; the published weights take 'kinetics'.
    lowering: of the convolutions.
  """
  size = pick(PRESETS, preset, 'preset of r3d18')._replace(stem_middle=0)
  style = Style(activation, norm, lowering)
  return _victim(size, style, inputs, clip_shape, num_classes)


def r2plus1d18(
    clip_shape: tuple[int, ...],
    num_classes: int,
    *,
    preset: str = 'small',
    activation: str = 'relu',
    norm: str = 'fixed',
    inputs: str = 'unit',
    lowering: str = 'matmul',
) -> Victim:
  """`r3d18` with each convolution split into one of space and one of time."""
  size = pick(PRESETS, preset, 'preset of r2plus1d18')
  style = Style(activation, norm, lowering, factorised=True)
  return _victim(size, style, inputs, clip_shape, num_classes)


def _victim(size, style, inputs, clip_shape, num_classes):
  return base.from_module(
      ResNet(size, style, num_classes, inputs), clip_shape, num_classes)
