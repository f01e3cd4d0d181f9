"""A real update, from files to a leak that an attack can take.

What the user does not say is inferred from the arrays where they tell it:
classes, preset, batch size, BatchNorm's mode, the step size of one clip. What
they do not tell is assumed, and marked as unknown.
"""

import dataclasses
import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vidleak_jax import files, victims
from vidleak_jax.attacks.checks import head as head_check
from vidleak_jax.attacks.checks.view import View
from vidleak_jax.attacks.self_check import Finding, self_check
from vidleak_jax.leaks import importers, mapping, reading
from vidleak_jax.options import Options, option
from vidleak_jax.specs import (
    DataSpec,
    DefenseSpec,
    FederatedSpec,
    Provenance,
    VictimSpec,
)
from vidleak_jax.types import Leak, UserError, Victim

_FRAMES = (8, 16, 32, 4, 12, 64, 1)  # tried where weights ask for others
_SIZES = (32, 112, 224, 64, 128, 16)
_COLOURS = 3


@dataclass(frozen=True)
class Import(Options):
  """What is known of a real update; None where it is not.

  >>> Import(gradient='g.npz', before='w.npz').defense
  'infer'
  """
  before: str = option(dataclasses.MISSING, 'the weights before training')
  gradient: str | None = option(None, 'a gradient of the mean loss')
  after: str | None = option(None, 'the weights after training')
  difference: str | None = option(None, 'weights after minus before')
  victim: VictimSpec = option(VictimSpec(), 'the network, as far as known')
  num_classes: int | None = option(None, 'outputs', low=2)
  num_frames: int | None = option(None, 'of a clip', low=1, high=2**16)
  image_size: int | None = option(None, 'rows and columns', low=2, high=2**14)
  batch_size: int | None = option(None, 'clips in the update', low=1)
  local_steps: int | None = option(None, 'of local training', low=1)
  learning_rate: float | None = option(None, 'of local training', above=0)
  labels: tuple[int, ...] = option((), 'where they are known')
  defense: str = option('infer', 'what was done to the update',
                        choices=('infer', 'none', 'unknown'))


class Imported(NamedTuple):
  """A real update, ready to be attacked."""
  leak: Leak
  findings: tuple[Finding, ...]
  unmatched: tuple[str, ...]  # arrays of the update that have no place


def run(spec: Import, folder: Path) -> Imported:
  """Reads an update, checks it, and writes it to a folder as a leak.

  Args:
    spec: what is known.
    folder: gets `leak.safetensors`, `leak.json` and `self_check.json`.

  Returns:
    The leak and what the self-check finds.

  Raises:
    UserError: for files or arrays that do not fit.
  """
  before = reading.read(spec.before)
  kind, path = _sent(spec)
  sent = reading.read(path)
  victim, known = _victim(spec, before)
  shapes = importers.leaf_shapes(victim)
  found, arrays = importers.mapped(victim, sent)
  if victim.spec and spec.victim.norm is None and kind == 'after' and (
      _statistics_moved(victim, before, found, shapes)):
    victim, known = _in_mode(victim, 'batch'), known | {'norm': 'inferred'}
  leak = _leak(spec, victim, before, kind, arrays, known)
  findings = self_check(victim, leak)
  advice = next((each.text for each in findings if each.name == 'batch_norm'
                 and each.status == 'mismatch'), '')
  if 'use a victim with norm=batch' in advice and spec.victim.norm is None:
    victim, known = _in_mode(victim, 'batch'), known | {'norm': 'inferred'}
    leak = _leak(spec, victim, before, kind, arrays, known)
    findings = self_check(victim, leak)
  elif spec.victim.norm is None and any(
      each.name == 'batch_norm' and each.status == 'ok' for each in findings):
    leak = _marked(leak, norm='inferred')
  leak.save(folder)
  files.write_json(folder / 'self_check.json',
                   [dataclasses.asdict(each) for each in findings])
  return Imported(leak, findings, found.unmatched)


def _sent(spec) -> tuple[str, str]:
  given = {kind: getattr(spec, kind)
           for kind in ('gradient', 'after', 'difference')
           if getattr(spec, kind)}
  if len(given) != 1:
    raise UserError('Give one of --gradient, --after and --difference; got '
                    f'{", ".join(given) or "none"}.')
  return next(iter(given.items()))


def _victim(spec: Import, before) -> tuple[Victim, dict[str, str]]:
  """The network that the weights fit, and how its facts are known."""
  known = {'inputs': 'given' if spec.victim.inputs else 'unknown',
           'norm': 'given' if spec.victim.norm else 'unknown'}
  both = spec.num_frames is not None and spec.image_size is not None
  default = DataSpec()
  frames = [spec.num_frames] if spec.num_frames else list(
      dict.fromkeys((default.num_frames, *_FRAMES)))
  sizes = [spec.image_size] if spec.image_size else list(
      dict.fromkeys((default.image_size, *_SIZES)))
  chosen = spec.victim
  if not chosen.factory:
    chosen = chosen.replace(num_classes=spec.num_classes or _classes(
        chosen.name, before, chosen.num_classes))
  elif spec.num_classes:
    chosen = chosen.replace(num_classes=spec.num_classes)
  fits = [made for preset in _presets(chosen) for made in _built_for(
      chosen.replace(preset=preset), frames, sizes)]
  if not fits:
    raise UserError(f'{chosen.name} takes no clips of {frames} frames and '
                    f'sizes {sizes}. Give --num_frames and --image_size.')
  nearest = min(fits, key=lambda made: _num_missing(made, before))
  known['clip_shape'] = 'given' if both else 'unknown'
  lacking = _num_missing(nearest, before)
  if not lacking or 2 * lacking > len(importers.leaf_shapes(nearest)):
    return nearest, known  # the import says what does not fit
  assert nearest.spec is not None
  for count, size in itertools.product(frames, sizes):
    for made in _built_for(nearest.spec, [count], [size]):
      if not _num_missing(made, before):
        known['clip_shape'] = 'given' if both else 'inferred'
        return made, known
  return nearest, known


def _presets(spec: VictimSpec) -> Sequence[str | None]:
  if spec.factory or spec.preset:
    return [spec.preset]
  if spec.name not in victims.NETWORKS:
    return [None]  # `build` says which there are
  module = sys.modules[victims.NETWORKS[spec.name].make.__module__]
  return list(getattr(module, 'PRESETS', {None: None}))


def _built_for(spec, frames, sizes) -> list[Victim]:
  """The network for the first clip shape that it takes, or none."""
  for count, size in itertools.product(frames, sizes):
    try:
      return [victims.from_spec(spec, (count, size, size, _COLOURS))]
    except UserError as error:
      if not any(word in str(error) for word in ('tubelets', 'pools',
                                                 'single')):
        raise
  return []


def _num_missing(victim, before) -> int:
  try:
    found, _ = importers.mapped(victim, before)
  except UserError:  # a list of another length
    return len(importers.leaf_shapes(victim))
  return len(found.missing)


def _classes(name, before, default) -> int:
  """The number of outputs of the head among some weights."""
  names = victims.NETWORKS[name].names if name in victims.NETWORKS else ()
  for key, array in before.items():
    paths = {key, mapping.path_of(key, array.ndim, names),
             mapping.path_of(key, array.ndim, ())}
    if array.ndim == 1 and any(
        path == 'head/bias' or path.endswith('/head/bias') for path in paths):
      return len(array)
  if reading.is_list(before):
    last = before[f'arr_{len(before) - 1}']
    return len(last) if last.ndim == 1 else default
  return default


def _in_mode(victim, norm) -> Victim:
  assert victim.spec is not None
  return victims.from_spec(victim.spec.replace(norm=norm), victim.clip_shape)


def _statistics_moved(victim, before, after, shapes) -> bool:
  """Whether running statistics changed in local training."""
  start, _ = importers.mapped(victim, before)
  return any(not np.array_equal(start.matched[path], after.matched[path])
             for path in shapes if path.startswith(mapping.STATISTICS)
             and path in start.matched and path in after.matched)


def _leak(spec, victim, before, kind, arrays, known) -> Leak:
  """The leak with what the update itself tells of its protocol."""
  known = dict(known) | {
      'batch_size': 'given' if spec.batch_size else 'unknown',
      'local_steps': 'given' if spec.local_steps else 'unknown',
      'local_learning_rate': 'given' if spec.learning_rate else 'unknown',
      'defense': 'given' if spec.defense == 'none' else 'unknown'}
  if kind == 'gradient':
    known |= {'local_steps': 'given', 'local_learning_rate': 'given'}
  steps = spec.local_steps or 1
  defense = DefenseSpec() if spec.defense == 'none' else None

  def made(batch_size, rate, defense):
    averaged = {} if kind == 'gradient' else {
        'algorithm': 'fedavg', 'local_steps': steps,
        'local_learning_rate': rate}
    return importers.from_arrays(
        victim, before, **{kind: arrays}, batch_size=batch_size,
        federated=FederatedSpec(
            message='clip' if batch_size == 1 else 'batch',
            labels_known=bool(spec.labels), **averaged),
        defense=defense, labels=spec.labels or None, partial=True)

  batch_size = spec.batch_size or max(len(spec.labels), 1)
  leak = made(batch_size, spec.learning_rate or 1.0, defense)
  view = View(victim, leak, 0)
  if spec.defense == 'infer' and not any(t.applied for t in view.traces):
    defense, known['defense'] = DefenseSpec(), 'inferred'
  if view.head is not None and np.any(view.head[3]) and not view.is_defended:
    if spec.labels or (not spec.batch_size and steps == 1):
      batch_size = len(spec.labels) or head_check.rank(view)
      known['batch_size'] = 'given' if spec.labels else 'inferred'
    factor = head_check.factor(view)
    if kind != 'gradient' and not spec.learning_rate and factor:
      # Of one step exactly; of several that moved little, nearly.
      rate = factor / steps
      known['local_learning_rate'] = 'inferred'
      return _marked(made(batch_size, rate, defense), **known)
  rate = spec.learning_rate or FederatedSpec().local_learning_rate
  return _marked(made(batch_size, rate, defense), **known)


def _marked(leak: Leak, **known: str) -> Leak:
  facts = leak.public.provenance.to_dict() | known
  return leak.replace(public=leak.public.replace(
      provenance=Provenance(**facts)))
