"""Whether the traces of a defence are those of the one that was declared."""

import numpy as np

from vidleak_jax.attacks.checks.view import Finding, View

# name of a trace -> the fields of `DefenseSpec` that can make it
_ZEROED = {'prune_fraction', 'topk_fraction', 'svt', 'nvflare_percentile'}
_FIELDS = {
    'prune': _ZEROED, 'top_k': _ZEROED,
    'quantize': {'quantize_bits', 'qsgd_levels', 'sign'},
    'qsgd': {'qsgd_levels', 'quantize_bits', 'sign'},
    'nvflare_percentile': {'nvflare_percentile', 'nvflare_gamma', 'svt',
                           'sign', 'quantize_bits'},
    'gaussian_noise': {'noise_std', 'local_dp', 'dp_sgd', 'svt'}}
_ZEROS = 0.9  # of the share that pruning or a percentile must leave


def check(view: View) -> Finding:
  """Returns the finding 'defense'."""
  declared = view.leak.public.defense
  traces = [trace for trace in view.traces if trace.applied
            and trace.applied.name != 'exclude_vars']
  texts = ' '.join(f'{trace.text[0].upper()}{trace.text[1:]}'
                   for trace in traces)
  if declared is None:
    return Finding('defense', 'unknown',
                   texts or 'The defence is not known, and none shows.')
  names = {trace.applied.name for trace in traces if trace.applied}
  if declared.is_off:
    if names:
      return Finding('defense', 'mismatch', f'No defence is declared. {texts}')
    return Finding('defense', 'ok', 'No defence is declared, and none shows.')
  missing = _missing(view, declared)
  if missing:
    return Finding('defense', 'mismatch', missing)
  declares = set(declared.active())
  extra = [name for name in names if not _FIELDS.get(name, set()) & declares]
  if extra and not (declared.prune_fraction or declared.quantize_bits
                    or declared.nvflare_percentile or declared.nvflare_gamma):
    return Finding('defense', 'warn', f'Beside the declared defence: {texts}')
  return Finding('defense', 'ok', 'The declared defence explains what shows.')


def _missing(view, declared) -> str | None:
  """A declared defence whose traces are not there."""
  leaves = list(view.learned.values())
  zeros = sum(int(np.sum(leaf == 0)) for leaf in leaves) / sum(
      leaf.size for leaf in leaves)
  pruned = declared.prune_fraction
  if pruned and zeros < _ZEROS * pruned:
    return (f'prune_fraction is {pruned:g}, but only {zeros:.1%} of the '
            'entries are 0: the update was not pruned like that.')
  share = declared.nvflare_percentile / 100
  if share and zeros < _ZEROS * share:
    return (f'nvflare_percentile is {declared.nvflare_percentile:g}, but only '
            f'{zeros:.1%} of the entries are 0.')
  last = not declared.nvflare_percentile and not declared.nvflare_gamma
  if declared.quantize_bits and last:
    levels = 2 ** declared.quantize_bits - 1
    largest = max(leaves, key=lambda leaf: leaf.size)
    count = len(np.unique(np.round(largest / np.abs(largest).max(), 6)))
    if count > levels + 2:
      return (f'quantize_bits is {declared.quantize_bits}, which leaves '
              f'{levels} levels; a leaf has {count}.')
  return None
