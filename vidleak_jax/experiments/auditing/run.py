"""One audit: every applicable attack within a budget, and what follows."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vidleak_jax import files
from vidleak_jax.attacks import Problem
from vidleak_jax.attacks.attempts import POLISH, Attempt, Explored
from vidleak_jax.attacks.auto import NOTHING, Auto
from vidleak_jax.attacks.self_check import self_check
from vidleak_jax.clients import split
from vidleak_jax.evaluation import fisher
from vidleak_jax.evaluation.report import audit_page, terminal
from vidleak_jax.experiments import audit as attack_lib
from vidleak_jax.experiments.auditing import (
    advice,
    curve,
    judging,
    limits,
    schedule,
)
from vidleak_jax.experiments.leaking import Audit, Door
from vidleak_jax.runtime import backend, durations, workdir
from vidleak_jax.runtime.session import Report, Session
from vidleak_jax.types import Row, UserError, attempt

FILE, PAGE = 'audit.json', 'audit.html'
CURVE = 'curve'  # a folder a point, beside the attacks' own
_FOR_LIMIT = 0.2    # of what is left then, at most
_FOR_ATTACKS = 0.6  # of the budget; what they leave goes to the curve
_FOR_WEAKER = 0.3   # of the budget, from which on weaker ones are left out


def run(
    audit: Audit, folder: Path, *, budget: float | str,
    leak_path: Path | None = None, allow_code: bool = False,
    log_fn: Callable[[str], None] = lambda text: None,
    progress: Report | None = None,
) -> Row:
  """Runs every applicable attack until the budget ends; writes the verdict.

  Started again with the same audit it goes on where it stopped, also with a
  larger budget; a finished audit just returns its result.

  Args:
    audit: whose clips, through which network, behind which defence; its
      `attack` holds the options of each attack.
    folder: the workdir.
    budget: seconds, or a text such as '10m', for all of it but the first
      compilation that overruns it.
    leak_path: a real leak to audit; no data set is touched, nothing is scored.
    allow_code: whether a network of the leak's own may be run as code.
    log_fn: told the threat model before the attacks start.
    progress: hears what is running and how much of the budget is left.

  Returns:
    The content of audit.json.

  Raises:
    UserError: for anything the user can mend.
  """
  seconds = durations.parse(budget, 'budget')
  if jax.process_count() > 1:
    raise UserError('An audit runs in one process; start one.')
  audit = audit.replace(attack=audit.attack.replace(name='auto'))
  devices, choices = attack_lib.machine(audit)
  door = Door(leak_path, allow_code)
  asked = {**audit.to_dict(), 'leak': leak_path and str(leak_path),
           'every_attack': True}
  with ExitStack() as held:
    held.enter_context(backend.settings(choices))
    held.enter_context(workdir.claim(folder, asked, {
        'device_kind': devices[0].device_kind, 'num_devices': len(devices)}))
    if kept := _kept(folder, seconds):
      return kept
    session = Session(tuple(devices), choices, None, report=progress)
    job = attack_lib.prepare(audit, folder, door, session)
    log_fn(terminal.of_leak(job.problem.leak))
    return _run(job, seconds, log_fn)


def _kept(folder: Path, seconds: float) -> Row | None:
  """The result of an earlier run with at least this budget."""
  file = folder / FILE
  found: Row = json.loads(file.read_text()) if file.exists() else {}
  return found if found.get('budget_seconds', 0) >= seconds else None


def _run(job: attack_lib.Job, seconds: float,
         log_fn: Callable[[str], None]) -> Row:
  began = time.monotonic()
  audit, folder, sample, problem = job
  checks = _checked(problem)
  for row in checks:
    if row['status'] in ('warn', 'mismatch'):
      log_fn(f'{row["status"]}: {row["text"]}')
  leak = schedule.told(problem.victim, problem.leak)
  problem = problem._replace(leak=leak)
  job = job._replace(problem=problem)
  search = schedule.searcher(audit.attack, _FOR_ATTACKS * seconds)
  explored = _explored(job, search, seconds)
  outcome = attempt(search.conclude, problem, explored)
  rows = _judged(job, explored, outcome)
  answered = not isinstance(outcome, UserError)
  scored = attack_lib.finish(job, outcome) if answered else {}
  judged = judging.of(scored)
  best = outcome.recovery if answered else None
  result: Row = {
      'verdict': outcome.findings['verdict'] if answered else NOTHING,
      'verdict_per_update': (
          outcome.findings['verdict_per_update'] if answered else []),
      'sentence': '', 'attack': scored.get('attack'), **judged,
      'gradient_residual': scored.get('gradient_residual'),
      'attacks': rows,
      'self_check': checks,
      'defense': None if leak.public.defense is None else (
          leak.public.defense.active()),
      'layers': _layers(job, best),
      'bounds': _bounds(job, seconds - _spent(began, explored)), 'curve': []}
  count = leak.num_updates * leak.public.batch_size
  result['sentence'] = advice.sentence(
      result['verdict'], judged, count, rows)
  if sample is not None:
    _write(job, result, best)  # a first page; the curve takes a while
    left = max(seconds - _spent(began, explored), 0.0)
    where = problem.session.inside(CURVE).until(left)
    for row in curve.measure(
        _todo(audit, leak, result['curve']), folder / CURVE, where,
        str(result['attack']), left, len(curve.points(audit, leak))):
      result['curve'].append(row)
  result['what_would_stop_it'] = advice.what_would_stop_it(
      result['curve'], leak)
  skipped = [row for row in (*rows, *result['curve']) if any(
      word in row['why_not'] for word in ('budget', 'stopped after', 'time'))]
  result |= {
      'budget_seconds': seconds, 'seconds': time.monotonic() - began,
      'budget_was_spent': bool(skipped)}
  _write(job, result, best)
  files.write_json(folder / FILE, result)
  return result


def _checked(problem: Problem) -> list[Row]:
  """Whether leak and network belong together, in plain words."""
  return [{'name': each.name, 'status': each.status, 'text': each.text}
          for each in self_check(problem.victim, problem.leak)]


def _explored(job, search: Auto, seconds: float) -> Explored:
  """All attacks, the weaker ones only where much of the budget is left."""
  spec, problem = job.audit.attack, job.problem
  first = search.explore(
      problem, spec.effort(), schedule.attacks_of(spec, problem.leak),
      exhaustive=True)
  left, weaker = _FOR_WEAKER * seconds - first.seconds, schedule.weaker_of(spec)
  if left <= 0:
    why = 'not tried: weaker than ig, and the budget goes to other settings'
    rows = tuple(Attempt(each.name, None, 0.0, '; '.join(each.requires(
        problem.victim, problem.leak)) or why) for each in weaker)
    return first._replace(attempts=first.attempts + rows)
  # What is polished in the end is the best of all, not of the weaker ones.
  more = schedule.searcher(spec, left).replace(polish_steps=0).explore(
      problem, spec.effort(), weaker, exhaustive=True)
  return Explored(first.attempts + more.attempts,
                  first.outcomes | more.outcomes,
                  first.seconds + more.seconds)


def _spent(began: float, explored: Explored) -> float:
  """Seconds of this run, or of the attacks where an earlier one did them."""
  return max(explored.seconds, time.monotonic() - began)


def _todo(audit, leak, rows) -> Iterator[curve.Point]:
  """The points of the curve, then finer ones between those measured."""
  yield from curve.points(audit, leak)
  for _ in range(2):
    if point := curve.finer(audit, rows):
      yield point


def _judged(job, explored: Explored, outcome: Any) -> list[Row]:
  """A row an attack, scored where the truth is at hand."""
  rows = []
  attempts = explored.attempts if isinstance(outcome, UserError) else (
      outcome.findings['attempts'])
  for each in attempts:
    row = each if isinstance(each, dict) else each._asdict()
    answer = explored.outcomes.get(row['name'])
    if row['name'] == POLISH and row['gradient_residual'] is not None:
      answer = outcome
    scored = {'psnr': None, 'ssim': None}
    if answer is not None:
      judged = judging.judge(job.sample, answer, job.problem.leak,
                             job.problem.victim)
      scored = {name: judged[name] for name in scored}
    rows.append({'name': row['name'],
                 'gradient_residual': row['gradient_residual'], **scored,
                 'seconds': row['seconds'], 'why_not': row['why_not']})
  return rows


def _seen(job, best):
  """(clips, labels) of the first update: the truth, or what was recovered."""
  if job.sample is not None:
    updates = split(job.sample.batch,
                    job.problem.leak.public.federated.message)
    return updates.clips[0], updates.labels[0]
  return (None, None) if best is None else (best.clips[0], best.labels[0])


def _layers(job, best) -> list[Row]:
  clips, labels = _seen(job, best)
  if clips is None:
    return []
  victim, leak, key, _ = job.problem
  return fisher.layer_shares(
      victim, leak.params, clips, labels, key)


def _bounds(job, seconds: float) -> Row:
  """Privacy of the mechanism, and limits of the recovery."""
  victim, leak, key, _ = job.problem
  truth = None if job.sample is None else job.sample.batch.clips
  row = {**limits.privacy(leak), 'no_prior_psnr': limits.no_prior(leak, truth),
         'cramer_rao_psnr': None}
  if job.sample is not None:
    clips, labels = _seen(job, None)
    row['cramer_rao_psnr'] = limits.cramer_rao(
        victim, leak, clips, labels, key, _FOR_LIMIT * seconds)
  return row


def _write(job: attack_lib.Job, result: Row, best: Any) -> None:
  """Writes audit.html from what there is."""
  sample, recovered = job.sample, None
  if best is not None:
    with np.load(job.folder / 'recovered.npz') as saved:
      recovered = saved['clips']
  audit_page.write(
      job.folder / PAGE, result=result, recovered=recovered,
      truth=None if sample is None else sample.batch.clips,
      names=() if sample is None else sample.names,
      knowledge=job.problem.leak.public.to_dict(),
      setup=json.loads((job.folder / 'config.json').read_text()))
