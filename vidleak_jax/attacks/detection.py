"""Traces that a defence leaves in an update: told, and undone without facts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vidleak_jax.attacks.observation import Applied, named_leaves
from vidleak_jax.specs import DefenseSpec
from vidleak_jax.types import Params

_MIN_ENTRIES = 16     # of a leaf that shows a grid
_ON_GRID = 0.02       # distance from a whole number of steps
_ZEROS = 5e-3         # share of exact zeros that asks for a reason
_BESIDE_GAP = 20      # entries just above a threshold, none below it
_PLATEAU = 8          # entries of one and the same largest magnitude
_NOISE_FLOOR = 1e-4   # of a leaf's root mean square; rounding leaves 1e-6
_MAX_RANK = 0.5       # of a matrix, that the clips of a batch may take

_FIELDS = {  # of `DefenseSpec`, and the strength that each holds
    'prune': ('prune_fraction', 'fraction'),
    'top_k': ('topk_fraction', 'fraction'),
    'quantize': ('quantize_bits', 'bits'),
    'gaussian_noise': ('noise_std', 'std')}


@dataclass(frozen=True)
class Finding:
  """One trace: a sentence, and the defence that explains it, if one does."""
  text: str
  applied: Applied | None = None


def detect(update: Params) -> list[Finding]:
  """What the update itself shows of a defence, as the last one applied.

  Args:
    update: of one message, leaves as the parameters' leaves.

  Returns:
    Findings in the order in which a client would have applied the defences
    (`observe_update` takes their `applied` as they come); empty where entries
    look exact.
  """
  names, leaves, _ = named_leaves(update)
  findings = []
  empty = [n for n, leaf in zip(names, leaves) if not leaf.any()]
  if empty:
    findings.append(Finding(
        f'{len(empty)} of {len(names)} leaves are 0 throughout and say '
        f'nothing: {", ".join(empty)}.',
        Applied('exclude_vars', {'patterns': tuple(empty)})))
  leaves = [leaf for leaf in leaves if leaf.any()]
  if not leaves:
    return findings
  # A grid has zeros and a plateau of its own: it comes first.
  trace = _grid(leaves) or _plateau(leaves) or _zeros(leaves)
  if trace:
    findings.append(trace)
  if not (trace and trace.applied):
    findings += _noise(leaves)
  return findings


def as_spec(findings: Sequence[Finding]) -> DefenseSpec | None:
  """Returns the defences that were found, as a config names them, or None.

  Leaves that say nothing are no defence here: the statistics of a norm have no
  gradient. QSGD is left out, since the levels do not show.
  """
  fields: dict[str, float] = {}
  for applied in (each.applied for each in findings if each.applied):
    given = applied.strengths
    if applied.name == 'nvflare_percentile':
      fields |= {'nvflare_percentile': given['percentile'],
                 'nvflare_gamma': given['gamma']}
    elif applied.name in _FIELDS:
      field, strength = _FIELDS[applied.name]
      fields[field] = given[strength]
  return DefenseSpec(**fields) if fields else None


def _plateau(leaves):
  """Clipping: the largest magnitude is that of many entries."""
  sizes = np.concatenate([np.abs(leaf).ravel() for leaf in leaves])
  gamma = sizes.max()
  count = int(np.sum(sizes >= gamma * (1 - 1e-6)))
  at_top = sum(np.abs(leaf).max() >= gamma * (1 - 1e-6) for leaf in leaves)
  if count < _PLATEAU or (at_top < 2 and len(leaves) > 1):
    return None
  zero = float(np.mean(sizes == 0))
  return Finding(
      f'{count} entries have one and the same largest magnitude {gamma:.4g} '
      f'({count / sizes.size:.1%}): clipped there; {zero:.1%} are exactly 0.',
      Applied('nvflare_percentile', {'percentile': 100 * zero,
                                     'gamma': float(gamma)}))


def _zeros(leaves):
  """Pruning: exact zeros, and a gap between them and the smallest entry."""
  shares = np.array([np.mean(leaf == 0) for leaf in leaves])
  sizes = np.array([leaf.size for leaf in leaves])
  share = float(np.sum(shares * sizes) / sizes.sum())
  if share < _ZEROS:
    return None
  large = sizes >= 256
  alike = np.ptp(shares[large]) < 0.02 if large.sum() > 1 else True
  groups = leaves if alike else [
      np.concatenate([leaf.ravel() for leaf in leaves])]
  if not any(map(_has_gap, groups)):
    return Finding(f'{share:.1%} of the entries are exactly 0, without a gap '
                   'beside them: units that are off, not a defence.')
  if alike:
    return Finding(f'{share:.1%} of every leaf is exactly 0: the smallest '
                   'entries of each were pruned.',
                   Applied('prune', {'fraction': share}))
  return Finding(
      f'{share:.1%} of all entries are exactly 0, leaf by leaf '
      f'{shares.min():.1%} to {shares.max():.1%}: one threshold for all.',
      Applied('top_k', {'fraction': 1 - share}))


def _has_gap(leaf):
  sizes = np.abs(leaf[leaf != 0])
  return sizes.size > 0 and np.sum(sizes < 2 * sizes.min()) >= _BESIDE_GAP


def _grid(leaves):
  """Quantisation: in each leaf whole multiples of its largest / levels."""
  large = [leaf.ravel() / np.abs(leaf).max() for leaf in leaves
           if leaf.size >= _MIN_ENTRIES]
  for bits in range(2, 17):
    levels = 2 ** (bits - 1) - 1
    if large and all(_is_whole(leaf * levels) for leaf in large):
      return Finding(f'every leaf is a grid of {2 * levels + 1} levels: '
                     f'quantised to {bits} bits.',
                     Applied('quantize', {'bits': bits}))
  steps = [leaf / np.abs(leaf[leaf != 0]).min() for leaf in large]
  if steps and all(np.abs(s).max() < 1e4 and _is_whole(s) for s in steps):
    return Finding('every leaf is a grid with a step of its own: rounded at '
                   'random (QSGD).', Applied('qsgd', {'levels': 0}))
  return None


def _is_whole(values):
  tolerance = _ON_GRID
  return np.abs(values - np.round(values)).max() < tolerance


def _noise(leaves):
  """Noise: a dense layer's gradient has the batch's rank, noise has all."""
  matrices = [leaf for leaf in leaves if leaf.ndim == 2 and min(leaf.shape) > 8]
  if not matrices:
    return []
  matrix = max(matrices, key=lambda leaf: leaf.size)
  if matrix.shape[0] < matrix.shape[1]:
    matrix = matrix.T
  values = np.linalg.eigvalsh(matrix.T @ matrix / len(matrix))
  ranks = max(1, int(_MAX_RANK * len(values)))
  std = float(np.sqrt(max(np.mean(values[:ranks]), 0)))
  # The smaller half of the eigenvalues of pure noise (Marchenko-Pastur) lies
  # below std^2, by about sqrt(columns / rows).
  std /= np.sqrt(max(1 - 0.85 * np.sqrt(matrix.shape[1] / len(matrix)), 0.1))
  if std < _NOISE_FLOOR * np.sqrt(np.mean(matrix ** 2)):
    return []
  return [Finding(f'a dense layer has a noise floor of {std:.2g} beside its '
                  'low rank: noise was added.',
                  Applied('gaussian_noise', {'std': std}))]
