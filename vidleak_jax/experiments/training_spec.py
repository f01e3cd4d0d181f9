"""Every field of a victim's training, typed."""

from dataclasses import dataclass

from vidleak_jax.options import Options, UserError, option
from vidleak_jax.specs import DefenseSpec, DeviceSpec, NetworkSpec


@dataclass(frozen=True)
class TrainingDataSpec(Options):
  """The clips that a victim learns from, and those that it is tested on."""
  name: str = option(
      'photo_motion', 'photo_motion (embedded), video_folder, or a TFDS name')
  dir: str | None = option(None, 'of video_folder: a folder of class folders')
  train_split: str = option('train', 'of the set')
  test_split: str = option('test', 'of the set')
  num_frames: int = option(8, 'frames of a clip', low=1)
  frame_stride: int = option(4, '1 takes neighbouring frames', low=1)
  image_size: int = option(16, 'rows and columns', low=2)


@dataclass(frozen=True)
class AugmentSpec(Options):
  """Random changes of training clips; see `augment.build`."""
  colours: bool = option(True, 'shuffle, invert and darken them')
  shift: int = option(2, 'the most pixels that a clip is moved by', low=0)
  mirror: tuple | None = option(
      None, 'pairs of classes that change places in a mirror; (): labels stay; '
      'None: no clip is mirrored')
  upside_down: tuple | None = option(None, 'likewise, upside down')
  reverse: tuple | None = option(None, 'likewise, played backwards')


@dataclass(frozen=True)
class TrainingSpec(Options):
  """The training of a victim.

  >>> TrainingSpec(num_steps=500).optimizer
  'adamw'
  """
  seed: int = option(0, 'of all randomness', low=0, high=2**32 - 2)
  data: TrainingDataSpec = option(TrainingDataSpec(), 'the clips')
  clips_per_video: int = option(
      2, 'from other start frames, where there are', low=1)
  victim: NetworkSpec = option(NetworkSpec(preset='small'), 'what learns')
  defense: DefenseSpec = option(
      DefenseSpec(), 'what the gradient passes before the server has it')
  augment: AugmentSpec = option(AugmentSpec(), 'random changes of the clips')
  optimizer: str = option('adamw', 'what moves the weights',
                          choices=('adamw', 'sgd'))
  learning_rate: float = option(2e-3, 'after the warm-up', above=0, high=1e3)
  momentum: float = option(0.9, 'of sgd', low=0, below=1)
  weight_decay: float = option(1e-2, 'of kernels', low=0)
  warmup_steps: int = option(50, 'of a linear rise from 0', low=0)
  clip_norm: float = option(1.0, 'largest norm of the gradient', above=0)
  batch_size: int = option(16, 'clips in a step', low=1)
  num_steps: int = option(1000, 'in all', low=1, high=10**9)
  chunk_steps: int = option(100, 'between logs and checkpoints', low=1)
  snapshots: tuple[float, ...] = option(
      (0.0, 0.1, 1.0), 'shares of the run at which the weights are kept', low=0,
      high=1)
  backend: DeviceSpec = option(DeviceSpec(), 'devices and lowerings')

  def __post_init__(self):
    super().__post_init__()
    if self.warmup_steps >= self.num_steps:
      raise UserError(f'warmup_steps is {self.warmup_steps}; it must be below '
                      f'num_steps, {self.num_steps}.')
