"""LeNet with sigmoids, the victim of DLG (1906.08935) and of the paper."""

from vidleak_jax.models import heads, stack
from vidleak_jax.types import UserError, Victim, pick
from vidleak_jax.victims import base

PRESETS = {'paper': 12, 'tiny': 4}  # width of every convolution
_STRIDES = ((2, 2), (2, 2), (1, 1), (1, 1))


def lenet(
    clip_shape: tuple[int, ...],
    num_classes: int,
    *,
    preset: str = 'paper',
    activation: str = 'sigmoid',
    lowering: str = 'matmul',
) -> Victim:
  """Four 5x5 convolutions of width 12 and a dense layer, on single frames.

  Args:
    clip_shape: (1, H, W, C): LeNet sees frames, each a clip of one frame.
    num_classes: K.
    preset: a name of `PRESETS`.
    activation: a name of `layers.ACTIVATIONS`.
    lowering: of the convolutions.

  Raises:
    UserError: for clips of more than one frame.
  """
  frames = clip_shape[0]
  if frames != 1:
    raise UserError(
        f'lenet classifies single frames, got clips of {frames}. Set '
        'federated.message=frame, so that each frame has its own gradient.')
  width = pick(PRESETS, preset, 'preset of lenet')
  specs = tuple(stack.ConvSpec(width, (5, 5), s) for s in _STRIDES)
  uniform = heads.uniform(0.5)
  module = stack.Stack(specs, num_classes, activation, lowering,
                       kernel_init=uniform, bias_init=uniform)
  return base.from_module(module, clip_shape, num_classes)
