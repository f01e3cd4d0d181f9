"""Small 3-D convolutional networks after C3D (Tran et al., 1412.0767)."""

from vidleak_jax.types import Victim, pick
from vidleak_jax.victims import base, stack

# name -> (width, strides) of each 3x3x3 convolution
PRESETS = {
    'tiny': ((8, (1, 2, 2)), (8, (2, 2, 2))),
    'small': ((32, (1, 1, 1)), (32, (1, 2, 2)), (64, (2, 2, 2))),
    'strided': ((16, (1, 2, 2)), (32, (2, 2, 2)), (64, (2, 2, 2))),
    'wide': ((64, (1, 1, 1)), (64, (1, 2, 2)), (128, (2, 2, 2))),
}


def c3d(
    clip_shape: tuple[int, ...],
    num_classes: int,
    *,
    preset: str = 'small',
    activation: str = 'leaky_relu',
    lowering: str = 'matmul',
) -> Victim:
  """3x3x3 convolutions with strides instead of pooling, and a dense layer.

  Args:
    clip_shape: (T, H, W, C).
    num_classes: K.
    preset: a name of `PRESETS`.
    activation: a name of `layers.ACTIVATIONS`.
    lowering: of the convolutions.
  """
  specs = tuple(
      stack.ConvSpec(width, (3, 3, 3), strides)
      for width, strides in pick(PRESETS, preset, 'preset of c3d'))
  module = stack.Stack(specs, num_classes, activation, lowering)
  return base.from_module(
      module, clip_shape, num_classes,
      layers=stack.list_layers(module, tuple(clip_shape)))
