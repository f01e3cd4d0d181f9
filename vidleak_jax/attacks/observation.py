"""What an update that passed a defence still says about each of its entries.

An *observation model* replaces "this entry is the gradient" by bounds and a
standard deviation, so that one attack serves all defences. It is built from the
public facts (which defence, which strengths, never its random numbers), or from
the traces that a defence leaves in the update itself: see `detection`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import numpy as np

from vidleak_jax.types import Params, pick

ROUNDING = 1e-5  # std of an exact entry, over its leaf's root mean square
_EDGE = 0.1      # std of an interval's end, over the threshold that made it
_SURE = 4.0      # noise is below that many stds


class Observed(NamedTuple):
  """The entries of one leaf, float64 arrays of its shape.

  Equal bounds: a value with an error of `std`. Else an interval that holds the
  value, with ends as soft as `std`; a half-line where one bound is infinite;
  nothing where both are.
  """
  low: np.ndarray
  high: np.ndarray
  std: np.ndarray

  @property
  def is_value(self) -> np.ndarray:
    return self.low == self.high

  @property
  def is_clipped(self) -> np.ndarray:
    return np.isinf(self.low) ^ np.isinf(self.high)

  @property
  def middle(self) -> np.ndarray:
    """The value, the middle of an interval, the end of a half-line, or 0."""
    low = np.where(np.isinf(self.low), self.high, self.low)
    high = np.where(np.isinf(self.high), self.low, self.high)
    return np.where(np.isinf(low), 0.0, (low + high) / 2)

  def scaled(self, factor: float) -> 'Observed':
    """Returns the same facts about `factor` (above 0) times the entries."""
    return Observed(*(np.asarray(part) * factor for part in self))


@dataclass(frozen=True)
class Applied:
  """One defence of a client's chain: a name of `DEFENSES` and its strengths."""
  name: str
  strengths: Mapping[str, float | str | Sequence[str]] = field(
      default_factory=dict)


def observe_update(
    update: Params, applied: Sequence[Applied] | None = None
) -> Params:
  """The observation model of one update.

  Args:
    update: of one message, leaves as the parameters' leaves.
    applied: the client's defences, in the order in which it applied them; empty
      for none; None to take what `detection.detect` finds.

  Returns:
    The tree of `update` with an `Observed` in the place of each leaf.

  Raises:
    UserError: for a defence without an observation model.
  """
  if applied is None:
    from vidleak_jax.attacks import detection
    applied = [finding.applied for finding in detection.detect(update)
               if finding.applied]
  names, leaves, tree = named_leaves(update)
  seen = [_exact(leaf) for leaf in leaves]
  for defense in reversed(applied):
    undo = pick(_UNDO, defense.name, 'defence with an observation model')
    seen = undo(names, seen, **defense.strengths)
  return tree.unflatten(seen)


def scale_is_known(applied: Sequence[Applied]) -> bool:
  """Whether the entries are those of the gradient, not some multiple."""
  return not {'clip_by_global_norm', 'local_dp_mod', 'sign'} & {
      each.name for each in applied}


def named_leaves(tree: Params) -> tuple[list[str], list[np.ndarray],
                                        jax.tree_util.PyTreeDef]:
  """(paths such as 'conv0/kernel', float64 leaves, structure)."""
  paths, structure = jax.tree_util.tree_flatten_with_path(tree)
  names = [jax.tree_util.keystr(path, simple=True, separator='/')
           for path, _ in paths]
  return names, [np.asarray(leaf, np.float64) for _, leaf in paths], structure


def _exact(leaf):
  std = ROUNDING * np.sqrt(np.mean(leaf ** 2)) + 1e-30
  return Observed(leaf, leaf, np.full_like(leaf, std))


def _more_noise(seen, std):
  return seen._replace(std=np.hypot(seen.std, std))


def _noise(names, seen, std):
  del names
  return [_more_noise(each, std) for each in seen]


def _local_dp(names, seen, clipping_norm, sensitivity, epsilon, delta):
  del clipping_norm  # a common factor: see `scale_is_known`
  std = sensitivity * np.sqrt(2 * np.log(1.25 / delta)) / epsilon
  return _noise(names, seen, std)


def _common_factor(names, seen, max_norm=None):
  del names, max_norm
  return seen


def _quantized(names, seen, bits):
  del names
  levels = max(1.0, 2.0 ** (bits - 1) - 1)
  return [_more_noise(each, np.abs(each.middle).max() / levels / 12 ** 0.5)
          for each in seen]


def _qsgd(names, seen, levels):
  """Random rounding on a grid of step s has a variance of s^2 / 6 on average.

  The smallest entry that is not 0 is one step in all but tiny leaves.
  """
  del names, levels
  return [_more_noise(each, least_size([each]) / 6 ** 0.5) for each in seen]


def _pruned(names, seen, fraction):
  del names, fraction
  return [_zeroed(each, least_size([each])) for each in seen]


def _top_k(names, seen, fraction, error_feedback=True):
  del names, fraction, error_feedback
  threshold = least_size(seen)
  return [_zeroed(each, threshold) for each in seen]


def _percentile(names, seen, percentile, gamma, num_steps=1):
  del percentile
  gamma = float(np.float32(gamma)) * num_steps * (1 - 1e-6)
  threshold = least_size(seen)
  return [_clipped(_zeroed(each, threshold), gamma) for each in seen]


def _svt(names, seen, options=None, gamma=1e-5, noise_var=0.1):
  del names
  gamma, noise_var = ((options.gamma, options.noise_var) if options
                      else (gamma, noise_var))
  return [_hidden(_more_noise(each, 8 ** 0.5 * gamma / noise_var),
                  (each.middle == 0) | (np.abs(each.middle) > gamma))
          for each in seen]


def _excluded(names, seen, patterns):
  import re
  if isinstance(patterns, str):
    out = [bool(patterns) and bool(re.search(patterns, n)) for n in names]
  else:
    out = [name in patterns for name in names]
  return [_hidden(each, np.full(each.low.shape, gone))
          for each, gone in zip(seen, out)]


def least_size(seen: Sequence[Observed]) -> float:
  """The smallest magnitude above 0 and noise, of leaves; 0 without one."""
  sizes = np.concatenate([
      np.abs(each.middle)[np.abs(each.middle) > _SURE * each.std]
      for each in seen])
  return float(sizes.min()) if sizes.size else 0.0


def _zeroed(seen, threshold):
  """Entries that are 0, or might be noise on a 0, lie within +-threshold."""
  noise = seen.std > 10 * ROUNDING * np.sqrt(np.mean(seen.middle ** 2)) + 1e-20
  bound = np.where(
      noise, np.maximum(_SURE * seen.std, threshold), threshold)
  zero = seen.is_value & np.where(
      noise, np.abs(seen.low) < _SURE * seen.std, seen.low == 0)
  return Observed(np.where(zero, -bound, seen.low),
                  np.where(zero, bound, seen.high),
                  np.where(zero, np.hypot(_EDGE * bound, seen.std), seen.std))


def _clipped(seen, gamma):
  up, down = seen.low >= gamma, seen.high <= -gamma
  return Observed(
      np.where(down, -np.inf, seen.low), np.where(up, np.inf, seen.high),
      np.where(up | down, np.hypot(_EDGE * gamma, seen.std), seen.std))


def _hidden(seen, where):
  return Observed(np.where(where, -np.inf, seen.low),
                  np.where(where, np.inf, seen.high), seen.std)


def _signs(names, seen, scaled=False):
  """Half-lines; how far an entry is from 0 is known at best from its leaf."""
  del names, scaled
  return [Observed(np.where(each.low > 0, 0.0, -np.inf),
                   np.where(each.high < 0, 0.0, np.inf),
                   np.full_like(each.std, _EDGE * np.abs(each.middle).max()))
          for each in seen]


_UNDO: dict[str, Callable[..., list[Observed]]] = {
    'clip_by_global_norm': _common_factor,
    'gaussian_noise': _noise,
    'prune': _pruned,
    'quantize': _quantized,
    'nvflare_percentile': _percentile,
    'svt_privacy': _svt,
    'exclude_vars': _excluded,
    'local_dp_mod': _local_dp,
    'top_k': _top_k,
    'qsgd': _qsgd,
    'sign': _signs,
}
