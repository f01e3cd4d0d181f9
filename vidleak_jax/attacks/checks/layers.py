"""Whether the layers of an update fit each other, as one network's must.

Symmetries of the loss bind the gradients of neighbouring layers, for every
clip; see `introspection.symmetries`. So a mapping that swapped two layers, a
transposed kernel, BatchNorm in another mode or weight decay show without any
knowledge of the clip.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from vidleak_jax.attacks.checks.view import Finding, View, probe_gradient
from vidleak_jax.runtime import programs
from vidleak_jax.victims.introspection import symmetries
from vidleak_jax.victims.introspection.symmetries import Symmetry
from vidleak_jax.victims.introspection.tracing import Path

_VERIFIED = 1e-3  # misfit of the network's own gradient; 1e-7 is usual
_FITS = 0.01      # misfit of an update, beyond what noise explains
_SEVERAL = 0.6    # of an update of several steps, which may cancel
_MODE_FITS = 0.05  # misfit of BatchNorm in the other mode
_EXPLAINED = 0.1  # of a misfit, that an explanation may leave
_NOISES = 5.0     # misfits that noise may cause, over its own size
_MAX_SWAPS = 2000
_MIN_CHANNELS = 8  # by which an explanation must hold


def check(view: View) -> list[Finding]:
  """Returns the findings 'layers' and, with such norms, 'batch_norm'."""
  graph = view.victim.graph
  if graph is None:
    return [Finding('layers', 'unknown', 'Only a loss is given; without logits '
                    'the layers are not known.')]
  laws = [law for law in _laws(view)
          if all(np.any(view.update[path]) for path in law.paths)]
  if not laws:
    return [Finding('layers', 'unknown', 'No law binds the layers of this '
                    'network to each other.')]
  wrong = [law for law in laws if _excess(view, law) > _limit(view)]
  norms = [law for law in laws if law.kind != 'scale']
  findings = []
  if norms:
    findings.append(_batch_norm(view, norms))
    if findings[0].status != 'ok':
      wrong = [law for law in wrong if law.kind == 'scale']
  return [_layers(view, laws, wrong), *findings]


def _laws(view: View) -> list[Symmetry]:
  """The symmetries that the network's own gradient of a drawn clip has."""
  victim = view.victim
  count = min(view.leak.public.batch_size, 2)

  def verified():
    gradient = probe_gradient(victim, view.leak.params, count)
    return [law for law in symmetries.find(victim.graph)
            if law.misfit(view.params, gradient) < _VERIFIED]
  return programs.default().get(('laws', victim.key, count), verified)


def _limit(view: View) -> float:
  """The misfit allowed: after several steps the laws hold about halfway."""
  return _FITS if view.num_steps == 1 else _SEVERAL


def _excess(view: View, law: Symmetry, update=None) -> float:
  """The misfit that noise and rounding do not explain."""
  update = view.update if update is None else update
  total, size = law.balance(view.halfway, update)
  noise = {path: np.full(view.params[path].shape, view.noise(path))
           for path in law.paths}
  blur = np.linalg.norm(law.balance(view.params, noise)[1])
  missed = max(np.linalg.norm(total) - _NOISES * blur, 0.0)
  return float(missed / max(np.linalg.norm(size), 1e-150))


def _layers(view, laws, wrong) -> Finding:
  if not wrong:
    return Finding('layers', 'ok', f'All {len(laws)} laws that bind the '
                   'gradients of neighbouring layers hold.')
  if view.is_defended:
    return Finding(
        'layers', 'unknown', f'{len(wrong)} of {len(laws)} laws between layers '
        'do not hold, as with a defence they need not.')
  names = '; '.join(law.name for law in wrong[:3]) + ' ...' * (len(wrong) > 3)
  cause = (_decay(view, laws) or _swapped(view, laws, wrong)
           or _transposed(view, laws, wrong)
           or 'Look for layers in another order, kernels in another layout, '
           'another activation, or weights that are not those the client '
           'started from.')
  return Finding('layers', 'mismatch', f'{len(wrong)} of {len(laws)} laws '
                 f'between layers do not hold: {names}. {cause}')


def _batch_norm(view, norms) -> Finding:
  """Which statistics the client's BatchNorm used."""
  wrong = [law for law in norms if _excess(view, law) > _limit(view)]
  fixed = norms[0].kind == 'norm'
  mode = 'running statistics' if fixed else "its batch's statistics"
  if not wrong:
    return Finding('batch_norm', 'ok', f'BatchNorm used {mode}.')
  if view.is_defended:
    return Finding('batch_norm', 'unknown', 'A defence hides which statistics '
                   'BatchNorm used.')
  others = ([symmetries.batch_statistics(law) for law in norms] if fixed else
            symmetries.fixed_statistics(norms, view.victim.graph))
  others = [law for law in others if all(p in view.params for p in law.paths)]
  fit = np.median([law.misfit(view.halfway, view.update) for law in others]
                  or [1.0])
  if len(wrong) > len(norms) / 2 and fit < _MODE_FITS:
    advice = ('The client trained with its batch\'s own statistics '
              '(model.train()): use a victim with norm=batch.' if fixed else
              'The client used the running statistics (model.eval()): use a '
              'victim with norm=fixed.')
    return Finding('batch_norm', 'mismatch', f'BatchNorm did not use {mode}. '
                   f'{advice}')
  if len(wrong) <= len(norms) / 2:
    return Finding('batch_norm', 'warn', f'BatchNorm used {mode} in '
                   f'{len(norms) - len(wrong)} of {len(norms)} layers; '
                   f'not so in {", ".join(law.name for law in wrong[:3])}.')
  return Finding('batch_norm', 'mismatch', 'The gradients before and after '
                 'BatchNorm do not fit each other, with running or with the '
                 "batch's own statistics: look for running statistics, scales "
                 'or layers of another network.')


def _decay(view, laws) -> str | None:
  """Weight decay, or parameters of after the training: both break all laws."""
  misses = _misses(view, laws, view.params, view.update)
  size = np.linalg.norm(misses)
  for directions, change in ((view.params, view.params),
                             (view.update, view.update)):
    pattern = _misses(view, laws, directions, change)
    power = pattern @ pattern
    if not power or len(pattern) < _MIN_CHANNELS:
      continue
    share = float(pattern @ misses / power)
    if np.linalg.norm(misses - share * pattern) > _EXPLAINED * size:
      continue
    if change is view.params and share > 0:
      return (f'Weight decay of {share:.3g} explains it: the client added '
              f'{share:.3g} times the weights. Take it off the update.')
    if change is view.update and share < 0:
      return ('They would hold for weights from before the update: the '
              'parameters given are those of after the training.')
  return None


def _misses(view, laws, directions, change):
  """What all laws miss, each over its size for the update at hand."""
  parts = []
  for law in laws:
    total, _ = law.balance(directions, change)
    _, size = law.balance(view.halfway, view.update)
    parts.append(total / max(np.linalg.norm(size), 1e-150))
  return np.concatenate(parts)


def _total(view, laws, params, update) -> float:
  return sum(law.misfit(params, update) ** 2 for law in laws)


def _swapped(view, laws, wrong) -> str | None:
  """Two leaves of one shape that fit when they change places."""
  suspects = dict.fromkeys(path for law in wrong for path in law.paths)
  pairs = [pair for pair in itertools.combinations(suspects, 2)
           if view.params[pair[0]].shape == view.params[pair[1]].shape
           and pair[0][-1] == pair[1][-1]]
  broken = _total(view, laws, view.params, view.update)
  best, swapped = _EXPLAINED * broken, None
  for one, other in pairs[:_MAX_SWAPS]:
    touched = [law for law in laws if {one, other} & set(law.paths)]
    before = _total(view, touched, view.params, view.update)
    for both in (False, True):
      update = _exchanged(view.update, one, other)
      params = _exchanged(view.params, one, other) if both else view.params
      change = _total(view, touched, params, update) - before
      if broken + change < best:
        best, swapped = broken + change, (one, other, both)
  if swapped is None:
    return None
  one, other, both = swapped
  where = 'the weights and the update' if both else 'the update'
  return (f'With {"/".join(one)} and {"/".join(other)} exchanged in {where} '
          'they hold: the layers were swapped.')


def _exchanged(leaves: dict[Path, np.ndarray], one: Path, other: Path):
  return leaves | {one: leaves[other], other: leaves[one]}


def _transposed(view, laws: Sequence[Symmetry], wrong) -> str | None:
  """Square kernels whose inputs and outputs stand the other way round."""
  suspects = [path for path in dict.fromkeys(
      path for law in wrong for path in law.paths)
      if view.update[path].ndim > 1
      and view.update[path].shape[-1] == view.update[path].shape[-2]]
  if not suspects:
    return None
  turned = {path: np.swapaxes(view.update[path], -1, -2) for path in suspects}
  update = view.update | turned
  if _total(view, laws, view.params, update) < _EXPLAINED * _total(
      view, laws, view.params, view.update):
    return ('With inputs and outputs of '
            f'{", ".join("/".join(path) for path in suspects[:3])} exchanged '
            'in the update they hold: the layout is [in, out], not [out, in].')
  return None
