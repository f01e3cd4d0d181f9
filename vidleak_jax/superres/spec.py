"""Every field of super-resolution training, typed."""

from dataclasses import dataclass

from vidleak_jax.options import Options, UserError, option
from vidleak_jax.specs import DataSpec


@dataclass(frozen=True)
class NetworkSpec(Options):
  """A generator. Fields that it does not have must be None."""
  name: str = option('clip', 'which one', choices=('clip', 'rrdb', 'compact'))
  scale: int = option(4, 'how many times it enlarges', low=1)
  frames: int | None = option(5, 'of clip: seen at once', low=1)
  width: int | None = option(32, 'channels', low=1)
  num_blocks: int | None = option(5, 'of clip and rrdb', low=0)
  growth: int | None = option(None, 'of rrdb', low=1)
  num_convs: int | None = option(None, 'of compact', low=0)


@dataclass(frozen=True)
class PoolSpec(Options):
  """What batches are drawn from: clips cut from photographs."""
  num_clips: int = option(1500, 'in all', low=1)
  size: int = option(128, 'of the frames aimed at', low=8)
  degradation: str = option('bicubic', 'how they are shrunk',
                            choices=('bicubic', 'second_order'))


@dataclass(frozen=True)
class Objective(Options):
  """Shares of the terms; 0 leaves one out.

  A share is the norm of the term's gradient on the frames, that of L1 being the
  unit. So a discriminator that is sure of itself, whose gradient is a thousand
  times larger, pulls no more than one that doubts.
  """
  l1: float = option(1.0, 'mean absolute error', low=0)
  gan: float = option(0.0, "what the discriminator says; not in stage 1", low=0)
  perceptual: float = option(0.0, 'distance of features', low=0)


@dataclass(frozen=True)
class StageSpec(Options):
  """Steps of one objective."""
  num_steps: int = option(2500, '0: this stage is left out', low=0, high=10**9)
  learning_rate: float = option(1e-3, 'at the start; it falls to 0', above=0,
                                high=1e3)
  objective: Objective = option(Objective(), 'shares of the terms')


@dataclass(frozen=True)
class AdversarialSpec(StageSpec):
  """Steps against a discriminator."""
  num_steps: int = option(0, '0: this stage is left out', low=0, high=10**9)
  learning_rate: float = option(1e-4, 'at the start; it falls to 0', above=0,
                                high=1e3)
  objective: Objective = option(Objective(gan=0.7), 'shares of the terms')
  discriminator: str = option('unet', 'which one', choices=('unet', 'vgg'))
  discriminator_width: int = option(
      16, "channels; ESRGAN's 64 take 12 times as long a step", low=1)
  discriminator_learning_rate: float = option(1e-4, 'constant', above=0,
                                              high=1e3)
  discriminator_noise: float = option(
      0.08, 'on what it is shown: what is fainter is hidden', low=0, high=1)


@dataclass(frozen=True)
class PerceptualSpec(Options):
  """The frozen network whose features are compared."""
  network: str = option('none', 'which one',
                        choices=('none', 'vgg19', 'resnet20'))
  weights_file: str | None = option(None, 'its weights: a file or a name')


@dataclass(frozen=True)
class ValidationSpec(DataSpec):
  """Clips that weights are judged on."""
  split: str = option('train', 'of the set; all: every video')
  num_clips: int = option(4, 'in all', low=1)
  seed: int = option(0, 'of their choice', low=0, high=2**32 - 1)


@dataclass(frozen=True)
class TrainingSpec(Options):
  """The training of a generator: on L1, then, if asked, adversarially.

  >>> TrainingSpec(batch_size=4).network.name
  'clip'
  """
  seed: int = option(0, 'of all randomness', low=0, high=2**32 - 3)
  num_devices: int = option(0, '0: all', low=0)
  network: NetworkSpec = option(NetworkSpec(), 'what learns')
  start: str | None = option(
      None, 'a weights file, or `shipped`; None: initialised')
  pool: PoolSpec = option(PoolSpec(), 'what batches are drawn from')
  max_noise: float = option(
      0.08, 'of the residual of attacks; 0: true frames', low=0, high=1)
  batch_size: int = option(8, 'frames in a step', low=1)
  chunk_steps: int = option(10, 'between logs and checkpoints', low=1)
  validate_steps: int = option(500, 'between validations', low=1)
  ema: float = option(0.995, 'decay of the running average of the weights',
                      low=0, below=1)
  stage1: StageSpec = option(StageSpec(), 'on L1')
  stage2: AdversarialSpec = option(AdversarialSpec(), 'against a discriminator')
  interpolation: float = option(
      0.8, 'share of stage 2 in interpolated.safetensors', low=0, high=1)
  perceptual: PerceptualSpec = option(PerceptualSpec(), 'whose features count')
  validation: ValidationSpec = option(ValidationSpec(), 'clips to judge on')

  def __post_init__(self):
    super().__post_init__()
    if self.stage1.objective.gan:
      raise UserError(
          f'stage1.objective.gan is {self.stage1.objective.gan}; stage 1 has '
          'no discriminator. Set it in stage2.objective.gan.')
    if not self.stage1.num_steps + self.stage2.num_steps:
      raise UserError('stage1.num_steps and stage2.num_steps are both 0, so '
                      'nothing is trained. Give one of them steps.')
    for stage in ('stage1', 'stage2'):
      own = getattr(self, stage)
      if (own.num_steps and own.objective.perceptual
          and self.perceptual.network == 'none'):
        raise UserError(
            f'{stage}.objective.perceptual is not 0, but perceptual.network is '
            'none. Name a network and its weights_file, or set the weight to '
            '0.')
