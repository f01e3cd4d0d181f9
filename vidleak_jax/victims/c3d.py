"""3-D convolutional networks after C3D (Tran et al., 1412.0767)."""

from vidleak_jax.models import c3d_full, stack
from vidleak_jax.types import UserError, Victim, pick
from vidleak_jax.victims import base

# name -> (width, strides) of each 3x3x3 convolution, or the published layout
PRESETS = {
    'tiny': ((8, (1, 2, 2)), (8, (2, 2, 2))),
    'small': ((32, (1, 1, 1)), (32, (1, 2, 2)), (64, (2, 2, 2))),
    'strided': ((16, (1, 2, 2)), (32, (2, 2, 2)), (64, (2, 2, 2))),
    # Channels grow as fast as strides shrink: the closed form is exact.
    'invertible': ((32, (1, 2, 2)), (96, (1, 2, 2))),
    'wide': ((64, (1, 1, 1)), (64, (1, 2, 2)), (128, (2, 2, 2))),
    'tiny_pooled': c3d_full.Size(((4,), (8, 8)), 16),
    'full': c3d_full.Size(
        ((64,), (128,), (256, 256), (512, 512), (512, 512)), 4096),
}


def c3d(
    clip_shape: tuple[int, ...],
    num_classes: int,
    *,
    preset: str = 'small',
    activation: str | None = None,
    norm: str = 'none',
    inputs: str = 'unit',
    lowering: str = 'matmul',
) -> Victim:
  """3x3x3 convolutions with strides instead of pooling, and a dense layer.

  The presets 'full' and 'tiny_pooled' have the published max pooling, two wide
  dense layers and dropout instead.

  Args:
    clip_shape: (T, H, W, C).
    num_classes: K.
    preset: a name of `PRESETS`.
    activation: a name of `layers.ACTIVATIONS`; leaky_relu if None, and relu in
      the published layout.
    norm: a name of `norms.NORMS`, after each convolution.
    inputs: a name of `layers.INPUTS`.
    lowering: of the convolutions.

  Raises:
    UserError: for unknown names, and a clip too small for the pooling.
  """
  spec = pick(PRESETS, preset, 'preset of c3d')
  if isinstance(spec, c3d_full.Size):
    frames, smallest = clip_shape[0], 2 ** (len(spec.stages) - 1)
    if frames < smallest or min(clip_shape[1:3]) < smallest:
      raise UserError(
          f'c3d {preset} pools clips {smallest}-fold, got {clip_shape}. Raise '
          'data.num_frames and data.image_size, or take victim.preset=small.')
    module = c3d_full.C3d(spec, num_classes, activation or 'relu', norm, inputs,
                          lowering)
    return base.from_module(module, clip_shape, num_classes)
  specs = tuple(
      stack.ConvSpec(width, (3, 3, 3), strides) for width, strides in spec)
  module = stack.Stack(specs, num_classes, activation or 'leaky_relu', lowering,
                       norm=norm, inputs=inputs)
  return base.from_module(module, clip_shape, num_classes)
