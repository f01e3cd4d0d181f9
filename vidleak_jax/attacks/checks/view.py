"""One update of a leak as the checks see it, and what they find."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from vidleak_jax import trees
from vidleak_jax.attacks import detection, local_training
from vidleak_jax.attacks.observation import Applied
from vidleak_jax.clients import defenses
from vidleak_jax.specs import DefenseSpec
from vidleak_jax.types import Leak, Victim
from vidleak_jax.victims.introspection.tracing import Path, leaves_of

STATISTICS = 'batch_stats'
_ROUNDING = 2.0 ** -24  # of float32, half a unit in the last place
_UNITS = 4              # in the last place, that the least change may have
_FEW = 0.2              # of the entries, that rounding may have made 0
_ROUNDINGS = 5.0        # of weights, that a weight change may show as noise
_SLOPE = 1.5            # of a natural video's spectrum, as a power law
_RANDOM_SIGNS = 1e-6    # of a gradient entry, over its leaf's root mean square
_EXPLAINED = 0.1        # of the head's sums, that weight decay may leave
_SAME_NOISE = 0.3       # of a noise that was detected, that classes must show


@dataclasses.dataclass(frozen=True)
class Finding:
  """What one check says.

  Attributes:
    name: of the check, such as 'head_scale'.
    status: 'ok'; 'warn': it may be right, but look; 'mismatch': it cannot be
      right; 'unknown': it could not be told.
    text: in plain words, what does not fit and what would.
  """
  name: str
  status: str
  text: str


# (W [F, K], c [K], dL/dW [F, K], dL/dc [K]) of the last dense layer
Head = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class View:
  """One update of a leak, as a gradient.

  Attributes:
    victim: the network.
    leak: the whole leak.
    index: of the update.
  """
  victim: Victim
  leak: Leak
  index: int

  @functools.cached_property
  def scale(self) -> float:
    """What a weight change is divided by to be a sum of gradients' mean."""
    federated, count = self.leak.public.federated, self.leak.public.batch_size
    if federated.algorithm == 'fedsgd':
      return 1.0
    if local_training.is_linear(federated):
      return local_training.response(federated, count).gain
    return self.num_steps * federated.local_learning_rate

  @property
  def num_steps(self) -> int:
    """Of local training that the update covers."""
    federated = self.leak.public.federated
    if federated.algorithm == 'fedsgd':
      return 1
    return federated.num_local_steps(self.leak.public.batch_size)

  @functools.cached_property
  def params(self) -> dict[Path, np.ndarray]:
    """The parameters by path, statistics included."""
    return {path: np.asarray(leaf, np.float64)
            for path, leaf in leaves_of(self.leak.params).items()}

  @functools.cached_property
  def halfway(self) -> dict[Path, np.ndarray]:
    """The mean of the weights at which the client's gradients were taken.

    To first order: on the way the weights move on a straight line.
    """
    share = self.scale * (self.num_steps - 1) / (2 * self.num_steps)
    return {path: leaf - share * self.update[path]
            for path, leaf in self.params.items()}

  @functools.cached_property
  def update(self) -> dict[Path, np.ndarray]:
    """The update by path as a gradient, statistics included."""
    return {path: np.asarray(leaf[self.index], np.float64) / self.scale
            for path, leaf in leaves_of(self.leak.update).items()}

  @functools.cached_property
  def learned(self) -> dict[Path, np.ndarray]:
    """The update's leaves that have a gradient."""
    return {path: leaf for path, leaf in self.update.items()
            if path[0] != STATISTICS}

  @functools.cached_property
  def traces(self) -> tuple[detection.Finding, ...]:
    """What the update shows of a defence."""
    tree = trees.nest({'/'.join(path): leaf * self.scale
                       for path, leaf in self.learned.items()})
    return tuple(each for each in detection.detect(tree)
                 if each.applied is None or not self._is_rounding(each.applied))

  def _is_rounding(self, applied: Applied) -> bool:
    """Whether a trace is what float32 leaves, and no defence."""
    if applied.name == 'gaussian_noise':
      return not self._is_noise(float(str(applied.strengths['std'])))
    if applied.name not in ('prune', 'top_k') or (
        self.leak.public.federated.algorithm != 'fedavg'):
      return False
    # Weights change by whole units in their last place, small changes by none.
    leaves = [np.abs(leaf) * self.scale for leaf in self.learned.values()]
    zeros = sum(int(np.sum(leaf == 0)) for leaf in leaves)
    least = min(leaf[leaf > 0].min() for leaf in leaves if leaf.any())
    largest = max(np.abs(self.params[path]).max() for path in self.learned)
    return bool(least < _UNITS * 2 * _ROUNDING * largest
                and zeros < _FEW * sum(leaf.size for leaf in leaves))

  def _is_noise(self, std: float) -> bool:
    """Whether a floor beside a low rank is noise, not rounding or a high rank.

    Weight decay leaves one, too. Classes of a softmax tell them apart: without
    noise their errors cancel.
    """
    if self.leak.public.federated.algorithm == 'fedavg':
      largest = max(np.sqrt(np.mean(self.params[path] ** 2))
                    for path in self.learned)
      if std < _ROUNDINGS * _ROUNDING * largest * np.sqrt(self.num_steps):
        return False
    if self.head is None:
      return True
    kernel = self.head[2] * self.scale
    left = np.sqrt(np.mean(kernel.sum(1) ** 2) / kernel.shape[1])
    return not self.weight_decay and bool(left > _SAME_NOISE * std)

  @functools.cached_property
  def is_defended(self) -> bool:
    """Whether a defence is declared, or shows."""
    declared = self.leak.public.defense
    return bool(declared and not declared.is_off) or any(
        trace.applied and trace.applied.name != 'exclude_vars'
        for trace in self.traces)

  @functools.cached_property
  def weight_decay(self) -> float:
    """What share of the weights the client added to its gradient; often 0.

    Errors of a softmax cancel over classes, so what is left of the head's
    gradient is in proportion to the weights' own sums.
    """
    if self.head is None:
      return 0.0
    sums, left = (self.head[i].sum(1) for i in (0, 2))
    share = float(sums @ left / max(sums @ sums, 1e-300))
    rest = np.linalg.norm(left - share * sums)
    explained = rest < _EXPLAINED * np.linalg.norm(left)
    return share if explained and len(sums) > 2 else 0.0

  def noise(self, path: Path) -> float:
    """The standard deviation of what rounding and noise add to a leaf."""
    leaf = self.update[path]
    spec = self.leak.public.defense or DefenseSpec()
    power = (_RANDOM_SIGNS ** 2) * np.mean(leaf ** 2)
    if self.leak.public.federated.algorithm == 'fedavg':
      weights = self.params[path]
      power += self.num_steps * (_ROUNDING / self.scale) ** 2 * np.mean(
          weights ** 2)
    std = defenses.noise_std_of(spec, self.leak.public.batch_size)
    power += (std / self.scale) ** 2
    if spec.quantize_bits:
      levels = max(1.0, 2.0 ** (spec.quantize_bits - 1) - 1)
      power += (np.abs(leaf).max() / levels) ** 2 / 12
    return float(np.sqrt(power))

  @functools.cached_property
  def head(self) -> Head | None:
    """The last dense layer, where there is one with a bias."""
    if self.victim.head is None:
      return None
    paths = [(*self.victim.head, name) for name in ('kernel', 'bias')]
    if not all(path in self.update for path in paths) or (
        self.params[paths[0]].ndim != 2):
      return None
    return (*(self.params[path] for path in paths),
            *(self.update[path] for path in paths))


def probe_clips(shape: tuple[int, ...], count: int) -> np.ndarray:
  """Returns clips [count, T, H, W, C] with the spectrum of natural video.

  They are drawn from a fixed seed, so that a check is the same each time.
  """
  rng = np.random.default_rng(0)
  axes = [np.fft.fftfreq(size) * size for size in shape[:3]]
  radius = np.sqrt(sum(np.square(axis) for axis in np.meshgrid(
      *axes, indexing='ij')))
  filter_ = 1 / np.maximum(radius, 1) ** _SLOPE
  noise = rng.normal(size=(count, *shape))
  clips = np.fft.ifftn(np.fft.fftn(noise, axes=(1, 2, 3))
                       * filter_[None, ..., None], axes=(1, 2, 3)).real
  # Colours of one scene go together.
  clips = 0.8 * clips.mean(-1, keepdims=True) + 0.2 * clips
  clips -= clips.mean((1, 2, 3, 4), keepdims=True)
  clips /= clips.std((1, 2, 3, 4), keepdims=True)
  means = rng.uniform(0.3, 0.6, (count, 1, 1, 1, 1))
  return np.clip(means + 0.2 * clips, 0, 1).astype(np.float32)


def probe_gradient(
    victim: Victim, params: object, count: int
) -> dict[Path, np.ndarray]:
  """Returns the network's own gradient of drawn clips, by path."""
  clips = probe_clips(victim.clip_shape, count)
  labels = jnp.arange(count, dtype=jnp.int32) % victim.num_classes
  gradient = jax.jit(jax.grad(victim.loss))(params, clips, labels)
  return {path: np.asarray(leaf, np.float64)
          for path, leaf in leaves_of(gradient).items()}
