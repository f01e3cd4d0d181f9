"""Every field of a run, typed: what it means, its default and its range.

`configs/default.py` is generated from these classes, `leak.json` stores some
of them, and nobody else repeats a default. The options of the attacks stand
beside the attacks.
"""

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

from vidleak_jax.errors import UserError
from vidleak_jax.options import Options, option

ACTIVATIONS = ('relu', 'leaky_relu', 'gelu', 'gelu_exact', 'softplus',
               'sigmoid', 'tanh', 'identity')
NORMS = ('fixed', 'batch', 'group', 'layer', 'none')
MESSAGES = ('clip', 'frame', 'batch', 'auto')
OPTIMIZERS = ('sgd', 'momentum', 'adam', 'other')  # of FedAvg's clients


@dataclass(frozen=True)
class DataSpec(Options):
  """Which clips the client holds."""
  name: str = option(
      'photo_motion', 'photo_motion (embedded), video_folder, or a TFDS name')
  dir: str | None = option(
      None, 'of video_folder: a folder of class folders, or one video file')
  split: str = option('test', 'of the set; all: every video')
  num_clips: int = option(1, 'clips to attack', low=1, high=2**20)
  num_frames: int = option(8, 'frames of a clip', low=1, high=2**20)
  frame_stride: int = option(2, '1 takes neighbouring frames', low=1,
                             high=2**20)
  image_size: int = option(32, 'the attacked resolution, square', low=2,
                           high=2**14)
  original_size: int = option(
      128, 'the resolution that super-resolution is scored against', low=2,
      high=2**14)
  labels: str = option('dataset', "or drawn from the victim's classes",
                       choices=('dataset', 'random'))


@dataclass(frozen=True)
class NetworkSpec(Options):
  """A network that is shipped. Fields that are None keep its own."""
  name: str = option('c3d', 'a network that is shipped')
  preset: str | None = option(None, 'tiny, small, full and others')
  activation: str | None = option(None, 'after each layer', choices=ACTIVATIONS)
  norm: str | None = option(None, 'after each convolution', choices=NORMS)
  inputs: str | None = option(
      None, 'the scale of the input',
      choices=('unit', 'half', 'imagenet', 'kinetics'))
  encoder: str | None = option(
      None, 'of vivit', choices=('joint', 'factorised'))
  pool: str | None = option(None, 'of vivit', choices=('token', 'mean'))
  cell: str | None = option(None, 'of cnn_gru', choices=('gru', 'lstm'))

  def network_options(self) -> dict[str, str | int]:
    """Returns what is given of the options that belong to some networks."""
    common = ('name', 'num_classes', 'factory', 'dropout_active', 'checkpoint')
    return {field.name: value for field in dataclasses.fields(self)
            for value in [getattr(self, field.name)]
            if value is not None and field.name not in common}


@dataclass(frozen=True)
class VictimSpec(NetworkSpec):
  """The client's network. Fields that are None keep the network's own."""
  num_classes: int = option(101, 'outputs', low=2, high=2**20)
  factory: str | None = option(
      None, 'your own network: path/to/file.py:make or package.module:make')
  dropout_active: bool = option(False, "in the client's gradient")
  checkpoint: str | None = option(None, 'trained weights; None: initialised')
  head: str | None = option(None, 'of frozen: classifier1, mlp, matrix, ...')
  extractor: str | None = option(None, 'of frozen: resnet20, resnet18, ...')
  weights_file: str | None = option(None, 'of the extractor')
  extractor_seed: int | None = option(None, 'without such a file', low=0)


@dataclass(frozen=True)
class LocalTraining(Options):
  """How a client trains between two messages of FedAvg."""
  local_steps: int = option(
      1, 'of FedAvg; where local_epochs is not 0 those count', low=1,
      high=10**6)
  local_epochs: int = option(
      0, 'passes of FedAvg over its clips; 0: local_steps count', low=0,
      high=10**6)
  local_batch_size: int = option(
      0, 'clips in one step, in an order that is drawn anew each epoch and not '
      'told; 0: all', low=0, high=2**20)
  local_learning_rate: float = option(1e-4, 'of FedAvg', above=0)
  optimizer: str = option(
      'sgd', 'of FedAvg; other: not told, so that nobody can simulate it',
      choices=OPTIMIZERS)
  momentum: float = option(0.9, 'of the optimizer momentum', low=0, below=1)
  weight_decay: float = option(
      0.0, 'times the weights, added to each gradient', low=0)
  proximal: float = option(
      0.0, "FedProx: times the distance from the server's weights, added to "
      'each gradient', low=0)

  def __post_init__(self):
    super().__post_init__()
    if self.local_epochs and self.local_steps != 1:
      raise UserError(
          f'local_steps is {self.local_steps} and local_epochs '
          f'{self.local_epochs}; give one of the two.')

  def num_local_steps(self, batch_size: int) -> int:
    """Returns how many steps a client with so many clips takes.

    The last step of an epoch covers the clips that are left.
    """
    if not self.local_epochs:
      return self.local_steps
    return self.local_epochs * self.steps_an_epoch(batch_size)

  def steps_an_epoch(self, batch_size: int) -> int:
    """Returns how many steps cover so many clips once."""
    return -(-batch_size // (self.local_batch_size or batch_size))

  def is_shuffled(self, batch_size: int) -> bool:
    """Whether the update depends on an order that the server does not know."""
    return 0 < self.local_batch_size < batch_size


@dataclass(frozen=True)
class FederatedSpec(LocalTraining):
  """The protocol: what one update covers, and how a client computes it."""
  message: str = option(
      'clip', 'what one update covers; auto: what an analytic attack needs',
      choices=MESSAGES)
  algorithm: str = option('fedsgd', 'a gradient, or a weight change',
                          choices=('fedsgd', 'fedavg'))
  labels_known: bool = option(False, 'whether the client sends its labels')
  num_rounds: int = option(
      1, 'in which the attacker sees the same clients with the same clips',
      low=1, high=1000)
  server_learning_rate: float = option(
      1.0, 'between rounds: times the mean update, subtracted from the weights',
      above=0)

  def __post_init__(self):
    super().__post_init__()
    if self.algorithm == 'fedavg':
      return
    plain = LocalTraining()
    for name in ('local_epochs', 'local_batch_size', 'optimizer',
                 'weight_decay', 'proximal'):
      if getattr(self, name) != getattr(plain, name):
        raise UserError(
            f'federated.{name} is {getattr(self, name)!r}, but '
            'federated.algorithm is fedsgd, which sends one gradient. Set it '
            f'to fedavg, or leave {name} at {getattr(plain, name)!r}.')


@dataclass(frozen=True)
class DpSgdSpec(Options):
  """DP-SGD as Opacus and jax_privacy do it: each clip's gradient is clipped,
  their sum gets noise. Off while `clip_norm` is 0."""
  clip_norm: float = option(
      0.0, "largest norm C of one clip's gradient; 0: off", low=0, traced=True)
  noise_multiplier: float = option(
      0.0, 'of the sum, std of the noise over C', low=0, traced=True)


@dataclass(frozen=True)
class LocalDpSpec(Options):
  """Flower's `LocalDpMod`, with its names. Off while `epsilon` is 0."""
  clipping_norm: float = option(
      1.0, 'largest norm of the whole update', above=0, traced=True)
  sensitivity: float = option(
      1.0, 'the noise has std sensitivity sqrt(2 ln(1.25/delta)) / epsilon, '
      'whatever the clipping norm', low=0, traced=True)
  epsilon: float = option(0.0, 'as configured; 0: off', low=0, traced=True)
  delta: float = option(1e-5, 'as configured', above=0, below=1, traced=True)


@dataclass(frozen=True)
class SvtSpec(Options):
  """NVFlare's `SVTPrivacy`, with its names. Off while `fraction` is 0."""
  fraction: float = option(
      0.0, "of the entries to share, NVFlare's default is 0.1; 0: off", low=0,
      high=1)
  epsilon: float = option(0.1, 'of the selection', above=0)
  noise_var: float = option(
      0.1, 'epsilon of the release, for each shared entry', above=0)
  gamma: float = option(1e-5, 'magnitudes are clipped to it', above=0)
  tau: float = option(1e-6, 'threshold of the selection', low=0)
  repeats: bool = option(
      True, "NVFlare's `replace`: whether an entry can be drawn twice")


@dataclass(frozen=True)
class DefenseSpec(Options):
  """What the client does to its update before sharing; 0 is off.

  The defences that are on are applied in the order of the fields.
  """
  dp_sgd: DpSgdSpec = option(DpSgdSpec(), 'DP-SGD, of FedSGD clients')
  clip_norm: float = option(0.0, 'largest global norm', low=0, traced=True)
  noise_std: float = option(
      0.0, 'standard deviation of Gaussian noise, absolute', low=0,
      traced=True)
  local_dp: LocalDpSpec = option(LocalDpSpec(), "Flower's LocalDpMod")
  exclude_vars: str = option(
      '', "NVFlare's ExcludeVars: leaves in whose name, such as head/kernel, "
      'this regular expression is found are not sent')
  svt: SvtSpec = option(SvtSpec(), "NVFlare's SVTPrivacy")
  prune_fraction: float = option(
      0.0, "share of each leaf's smallest entries that become 0", low=0,
      below=1, traced=True)
  topk_fraction: float = option(
      0.0, 'share of all entries, the largest, that is sent; what is not sent '
      'is forgotten', low=0, high=1, traced=True)
  quantize_bits: int = option(0, 'bits an entry', low=0, high=32)
  qsgd_levels: int = option(
      0, 'QSGD: each leaf is rounded at random to so many fractions of its '
      'norm', low=0, high=2**20)
  sign: str = option(
      'off', 'only signs are sent; scaled: times the mean magnitude of the '
      'leaf', choices=('off', 'plain', 'scaled'))
  nvflare_percentile: float = option(
      0.0, "NVFlare's PercentilePrivacy: smaller entries become 0, in percent "
      'of all', low=0, below=100, traced=True)
  nvflare_gamma: float = option(
      0.0, 'and all are clipped to this magnitude; 0 with a percentile: 0.01',
      low=0, traced=True)

  def __post_init__(self):
    super().__post_init__()
    try:
      re.compile(self.exclude_vars)
    except re.error as error:
      raise UserError(f'exclude_vars is {self.exclude_vars!r}, which is no '
                      f'regular expression: {error}.') from None

  def active(self) -> dict[str, Any]:
    """Returns the fields that do something, groups as dicts."""
    switches = {'dp_sgd': self.dp_sgd.clip_norm,
                'local_dp': self.local_dp.epsilon, 'svt': self.svt.fraction}
    on = {field.name: getattr(self, field.name)
          for field in dataclasses.fields(self)
          if switches.get(field.name, getattr(self, field.name))
          not in (0, '', 'off', None)}
    return {name: value.to_dict() if isinstance(value, Options) else value
            for name, value in on.items()}

  @property
  def is_off(self) -> bool:
    """Whether nothing is done."""
    return not self.active()

  @property
  def hides_scale(self) -> bool:
    """Whether the update is known up to one common factor only."""
    return bool({'dp_sgd', 'clip_norm', 'local_dp', 'sign'} & set(
        self.active()))


@dataclass(frozen=True)
class ClientDefense(DefenseSpec):
  """What a simulated client does: those, then a defence of the user's own."""
  factory: str | None = option(
      None, 'your own defence, after those: path/to/file.py:make or '
      'package.module:make returns an optax transform; the attacker is then '
      'told nothing of the defence')

  def told(self) -> DefenseSpec | None:
    """Returns what the attacker is told; None: nothing."""
    values = self.to_dict()
    return None if values.pop('factory') else DefenseSpec(**values)


KNOWN = ('given', 'inferred', 'unknown')


@dataclass(frozen=True)
class Provenance(Options):
  """How each public fact of an update came to be known."""
  clip_shape: str = option('given', 'frames and size', choices=KNOWN)
  batch_size: str = option('given', 'clips in one update', choices=KNOWN)
  inputs: str = option('given', 'the scale of the input', choices=KNOWN)
  norm: str = option('given', "BatchNorm's statistics", choices=KNOWN)
  local_steps: str = option('given', 'of local training', choices=KNOWN)
  local_learning_rate: str = option('given', 'its step size', choices=KNOWN)
  defense: str = option('given', 'what was done to the update', choices=KNOWN)


@dataclass(frozen=True)
class SuperResSpec(Options):
  """Enlarges recoveries to `data.original_size`."""
  name: str = option('none', 'clip: on', choices=('none', 'clip'))
  weights: str | None = option(
      None, 'a file; None: the shipped network, perceptual: a crisper one')
  noise: float = option(
      0.015, "of the recovery's errors, as the attacker guesses it", low=0,
      high=1)
  num_references: int = option(
      0, 'real frames that the attacker holds', low=0)
  references: tuple[int | str, ...] = option(
      (), 'those instead: frame numbers or images')
  tile: int = option(128, 'side of a tile, in small pixels', low=8)
  batch_size: int = option(4, 'tiles at once on a device', low=1)


@dataclass(frozen=True)
class DeviceSpec(Options):
  """Fields that are None take what was measured as best for the backend."""
  num_devices: int = option(0, '0: all', low=0)
  lowering: str | None = option(None, 'of convolutions',
                                choices=('matmul', 'lax'))
  precision: str | None = option(
      None, 'of float32 matrix products',
      choices=('default', 'high', 'highest', 'bfloat16', 'float32',
               'tensorfloat32'))


@dataclass(frozen=True)
class BackendSpec(DeviceSpec):
  """Fields that are None take what was measured as best for the backend."""
  restart_batch: int | None = option(None, 'restarts vmapped together', low=1)
