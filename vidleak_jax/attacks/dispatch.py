"""From a leak to a recovery, by the attack's name.

Nothing here has seen a data set: a `Case` is all that an attacker has.
"""

import functools
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from vidleak_jax.attacks import analytic, features, labels
from vidleak_jax.attacks.analytic import subspace
from vidleak_jax.attacks.matching import engine, feature_matching, match, recipe
from vidleak_jax.clients import federated
from vidleak_jax.runtime import backend
from vidleak_jax.runtime.progress import Progress
from vidleak_jax.types import (
  Guess,
  Leak,
  PRNGKey,
  Recovery,
  UserError,
  Victim,
  attempt,
  pick,
)

_KEPT = 8  # programs of the last attacks, for others of the same shape
_DISAGREEMENT = 1e-4  # of a layer's equations; rounding causes 2e-5


class Case(NamedTuple):
  """What the attacker has: the leak, what is public, and machines."""
  victim: Victim
  leak: Leak
  knowledge: dict[str, Any]  # the content of leak.json
  key: PRNGKey
  devices: Sequence[jax.Device]
  choices: backend.Choices
  folder: Path               # for metrics.jsonl, and what is half done
  tensorboard: bool


class Outcome(NamedTuple):
  """What came of it."""
  recovery: Recovery
  cost: engine.Cost
  findings: dict[str, Any]  # more for result.json: ranks, residuals, ...


def run(
    cases: Sequence[Case], options: Sequence[dict[str, Any]], folder: Path,
) -> list[Outcome | UserError]:
  """Runs one attack on some cases, in one program where it iterates.

  Args:
    cases: of equal shapes and equal public facts, but for numbers.
    options: of each, as `attack` in `configs/default.py`, equal but for
      numbers.
    folder: gets the checkpoints.

  Returns:
    Of each case what came of it: an outcome, or why there is none.

  Raises:
    UserError: for an unknown name, or an attack that no such leak allows.
  """
  name = options[0]['name']
  recipes = {k: v for k, v in options[0].items() if isinstance(v, dict)}
  pick(recipes, name, 'attack')
  if iterates(name):
    return _iterate(cases, options, name, folder)
  return [attempt(_SOLVERS[name], case, own, folder)
          for case, own in zip(cases, options, strict=True)]


def structure(options: dict[str, Any]) -> dict[str, Any]:
  """The options without their numbers, and without the other attacks'."""
  kept = {name: value for name, value in options.items()
          if not isinstance(value, dict) or name == options['name']}
  return without_numbers(kept)


def without_numbers(options: dict[str, Any]) -> dict[str, Any]:
  """What of any options makes a program, and not just its arguments."""
  return recipe.with_numbers(options, jax.tree.map(
      lambda _: 'a number', recipe.numbers(options)))


def iterates(name: str) -> bool:
  """Whether the attack of that name runs on all devices of all processes."""
  return name not in _SOLVERS


def _iterate(cases, options, name, folder) -> list[Outcome | UserError]:
  """Gradient matching by the recipe `name`, from many starts."""
  shared, recipes = options[0], [own[name] for own in options]
  structure = without_numbers(recipes[0])
  own_steps, how = structure.pop('num_steps'), structure.pop('labels')
  polish = structure.pop('polish_steps'), structure.pop('polish_inner_steps')
  case = cases[0]
  leaks, seconds = _deepened(cases, structure['match'])
  outcomes = list(leaks)
  trials = {i: engine.Trial(leak, _templates(cases[i], how), cases[i].key,
                            recipe.numbers(recipes[i]), cases[i].folder)
            for i, leak in enumerate(leaks) if isinstance(leak, Leak)}
  if not trials:
    return outcomes
  first = next(iter(trials.values()))
  num_messages = len(first.templates.clips) * len(trials)
  budget = engine.Budget(
      num_restarts=shared['num_restarts'],
      num_steps=own_steps if shared['num_steps'] is None
      else shared['num_steps'],
      chunk_steps=shared['chunk_steps'],
      restart_batch=case.choices.restart_batch,
      devices=_enough(case.devices, num_messages * shared['num_restarts']),
      halve_at=tuple(shared['halve_at']),
      keep_checkpoints=shared['keep_checkpoints']).checked()
  build = _builder(case.victim, json.dumps(case.knowledge['federated']),
                   json.dumps(structure), budget.last_step)
  build(first.numbers)  # tells a wrong name before anything runs
  for part, rows in _programs(trials):
    found, cost = engine.run(build, [trials[i] for i in rows], budget,
                             folder / part, tensorboard=case.tensorboard)
    cost = cost._replace(seconds_attack=cost.seconds_attack + seconds)
    for i, each in zip(rows, found, strict=True):
      outcomes[i] = (each if isinstance(each, UserError)
                     else Outcome(each, cost, {}))
  return outcomes if not polish[0] else [
      one if isinstance(one, UserError) else _polish(each, one, *polish)
      for each, one in zip(cases, outcomes, strict=True)]


def _deepened(cases, kind):
  """(leaks with what follows at once, or errors; seconds a case it took)."""
  leaks = [case.leak for case in cases]
  if kind != 'anchored':
    return leaks, 0.0
  _need_single(cases[0], 'anchored match')
  began = time.perf_counter()
  leaks = feature_matching.deepen(cases[0].victim.layers, leaks)
  return leaks, (time.perf_counter() - began) / len(cases)


def _programs(trials):
  """Which trials run as one: those whose leaks say the same things.

  Yields:
    (folder for the checkpoints, indices): '' for the first, so that a lone
    trial's are where its workdir promises them.
  """
  parts = {}
  for i, trial in trials.items():
    parts.setdefault(jax.tree.structure(trial.leak.update), []).append(i)
  for number, rows in enumerate(parts.values()):
    yield str(number or ''), rows


@functools.lru_cache(_KEPT)
def _builder(victim, federation, structure, num_steps):
  """The attack from its numbers: one function a program, to find it again."""
  federation, structure = json.loads(federation), json.loads(structure)

  def build(numbers):
    own = recipe.with_numbers(structure, numbers)
    distance = match.weighted_distance(own.pop('distance'))
    term = pick(_MATCHES, own.pop('match'), 'match')(
        victim, federation, distance)
    return recipe.build(term, num_steps, **own)
  return build


def _enough(devices, tries):
  """No more than there is work for; of several processes always all."""
  if any(d.process_index != devices[0].process_index for d in devices):
    return devices
  return devices[:tries]


def _polish(case, outcome, num_steps, inner_steps) -> Outcome:
  """Gauss-Newton in float64 from a recovery that is nearly right.

  Without steps it only measures how well the recovery matches.
  """
  if case.knowledge['federated']['algorithm'] != 'fedsgd':
    raise UserError('The polish needs FedSGD. Set polish_steps=0.')
  began = time.perf_counter()
  recovery, cost = outcome.recovery, outcome.cost
  polished = analytic.polish(
      case.victim.loss, case.leak, recovery.clips, recovery.labels,
      num_steps=num_steps, inner_steps=inner_steps)
  seconds = time.perf_counter() - began
  return Outcome(
      Recovery(np.clip(polished.clips, 0.0, 1.0).astype(np.float32),
               recovery.labels, polished.after.astype(np.float32)),
      cost._replace(seconds_attack=cost.seconds_attack + seconds),
      outcome.findings | {
          'residual_before_polish': float(polished.before.max()),
          'residual_after_polish': float(polished.after.max())})


def _templates(case, how) -> Guess:
  """Shapes to start from, and labels: known, inferred, or to be optimised."""
  shape = (case.knowledge['num_messages'], case.knowledge['batch_size'])
  clips = np.zeros((*shape, *case.knowledge['clip_shape']), np.float32)
  if how == 'joint':
    soft = np.zeros((*shape, case.victim.num_classes), np.float32)
    return Guess(clips, soft)
  if case.leak.labels is not None:
    return Guess(clips, np.asarray(case.leak.labels))
  return Guess(clips, labels.infer_labels(
      case.leak.update, case.victim.head, shape[1]))


def _gradient(victim, federation, distance) -> match.Term:
  """The match of the algorithm that the clients run."""
  if federation['algorithm'] == 'fedsgd':
    return match.gradient_match(victim.loss, distance)
  return match.update_match(
      federated.client_of(victim.loss, federation), distance)


def _anchored(victim, federation, distance) -> match.Term:
  del federation, distance  # it has its own
  return feature_matching.anchored_match(victim.layers)


_MATCHES = {'gradient': _gradient, 'anchored': _anchored}


def _closed_form(case, options, folder) -> Outcome:
  """Linear algebra, then a polish; matching takes over where it stops."""
  own = options['closed_form']
  _need_single(case, 'closed form')
  began = time.perf_counter()
  solve = (_from_tokens if case.victim.tokens else
           _from_layers if case.victim.layers else _from_spans)
  clips, found, report = solve(case, own)
  if report['closed_form_note']:
    print(report['closed_form_note'])
  if clips is None:
    case = case._replace(leak=case.leak._replace(labels=found))
    outcome, = _iterate([case], [options], 'anchored', folder)
    if isinstance(outcome, UserError):
      raise outcome
    return outcome._replace(findings=outcome.findings | report)
  steps = own['polish_steps']
  if own['whole_levels']:
    rounded = analytic.to_levels(clips)
    report |= {'on_levels': float(np.mean(rounded.on_levels)),
               'distance_to_levels': float(rounded.moved.max())}
    clips = rounded.clips
    # What lies on levels is right or not: a polish could only fit rounding.
    steps = 0 if rounded.on_levels.all() else steps
  recovery = Recovery(np.clip(clips, 0.0, 1.0).astype(np.float32),
                      found.astype(np.int32), np.full(len(clips), np.nan))
  cost = engine.Cost(0.0, time.perf_counter() - began, 0, 0)
  return _polish(case, Outcome(recovery, cost, report), steps,
                 own['polish_inner_steps'])


def _from_layers(case, _):
  """(clips or None, labels [M, 1], report), down the victim's layers."""
  walk = analytic.walk_down(case.victim, case.leak, batch_size=1)
  report = {'closed_form': walk.report,
            'closed_form_note': walk.stopped or _doubts(walk.report)}
  found = walk.labels[:, None]
  if walk.stopped:
    return None, found, report
  shape = (len(found), 1, *case.knowledge['clip_shape'])
  return walk.activations.reshape(shape), found, report


def _doubts(rows) -> str:
  """What the layers' equations leave open or contradict; '' if nothing."""
  doubts = [f'{row["layer"]} leaves {row["unknowns"] - row["rank"]} of '
            f'{row["unknowns"]} directions open'
            for row in rows if row['rank'] < row['unknowns']]
  worst = max(rows, key=lambda row: row['residual'])
  if worst['residual'] > _DISAGREEMENT:
    doubts.append(
        f'the equations of {worst["layer"]} disagree by '
        f'{worst["residual"]:.0e} (noise, a defence, or an open layer above)')
  return f'The closed form is not exact: {"; ".join(doubts)}.' * bool(doubts)


def _from_tokens(case, options):
  """(clips, labels [M, 1], report), from a transformer's embeddings."""
  found = analytic.recover_tokens(
      case.victim, case.leak, batch_size=1,
      whole_levels=options['whole_levels'])
  report = {'closed_form': found.report, 'closed_form_note': found.note}
  return found.clips, found.labels[:, None], report


def _from_spans(case, options):
  """(clips, labels [M, 1], report), from what the layers' inputs span."""
  count = case.knowledge['num_messages']
  with Progress(count, 'spans', unit='messages') as progress:
    found = subspace.recover_spans(
        case.victim, case.leak, case.knowledge['clip_shape'],
        sharpen_steps=options['sharpen_steps'], folder=case.folder,
        report=progress.update)
  report = {'closed_form': found.report, 'closed_form_note': found.note}
  return found.clips, found.labels[:, None], report


def _need_single(case, what):
  algorithm = case.knowledge['federated']['algorithm']
  size = case.knowledge['batch_size']
  if algorithm != 'fedsgd' or size != 1:
    raise UserError(
        f'The {what} needs FedSGD and one clip a message; this leak has '
        f'{algorithm} and {size}: of several clips the head shows the span of '
        'its inputs alone, of several steps not even that. Choose '
        'attack.name=ig.')


def _features(case, options, folder) -> Outcome:
  """A frozen extractor: the head's gradient, its features, then frames."""
  del folder
  own = options['features']
  _need_single(case, 'attack on features')
  began = time.perf_counter()
  found = features.recover_features(case.victim, case.leak, batch_size=1)
  num_frames, size = case.knowledge['clip_shape'][:2]
  # Of a whole clip a classifier shows the mean only: it stands for each frame.
  values = np.repeat(found.values, num_frames // found.values.shape[1], 1)
  frames = features.recover_frames(
      lambda x: case.victim.features(x[:, None])[:, 0],
      values.reshape(-1, case.knowledge['num_frames'], values.shape[-1]), size,
      case.leak.references, path=own['weights'],
      num_scenes=own['num_scenes'], seed=own['seed'])
  clips = frames.reshape(
      len(found.values), 1, *case.knowledge['clip_shape'])
  cost = engine.Cost(0.0, time.perf_counter() - began, 0, 0)
  residual = max(row['residual'] for row in found.report)
  note = _doubts(found.report)
  if note:
    print(note)
  return Outcome(
      Recovery(clips, found.labels[:, None],
               np.full(len(clips), residual, np.float32), found.values),
      cost, {'closed_form': found.report, 'closed_form_note': note})


_SOLVERS = {'closed_form': _closed_form, 'features': _features}
