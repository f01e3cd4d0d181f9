"""The main job, and the file to read first.

Data flows one way: clips -> `clients` (update, defence) -> leak -> `attacks`
-> super-resolution -> `evaluation` -> report. Only this file knows them all;
attacks see the leak and the victim's public functions, and only the evaluation
sees truth and recovery.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from vidleak_jax import attacks, data
from vidleak_jax.clients import join
from vidleak_jax.evaluation import scores
from vidleak_jax.evaluation.report import terminal
from vidleak_jax.experiments import enlarging, publishing
from vidleak_jax.experiments.leaking import (
    Audit,
    Door,
    load_data,
    obtain_leak,
    victim_of,
)
from vidleak_jax.leaks import storage
from vidleak_jax.runtime import backend, parallel, workdir
from vidleak_jax.runtime.session import Report, Session
from vidleak_jax.types import Row, UserError, attempt


class Job(NamedTuple):
  """One audit, ready to be attacked."""
  audit: Audit
  folder: Path
  sample: data.Sample | None  # None: nobody here knows the truth
  problem: attacks.Problem


def run(
    audit: Audit | Row, folder: str | Path, *,
    leak_path: str | Path | None = None, tensorboard: bool = False,
    allow_code: bool = False, log_fn: Callable[[str], None] = lambda text: None,
    progress: Report | None = None, budget: float | str | None = None,
) -> Row:
  """Runs one audit and writes all its files under `folder`.

  Started again with the same audit it goes on where it stopped; a finished run
  just returns its result. Where JAX runs in several processes, all of them call
  this; only the leader reads data and writes.

  Args:
    audit: what to run, or its fields as a config holds them.
    folder: the workdir.
    leak_path: attacks this leak file instead of computing one; no data set is
      touched, and nothing is scored.
    tensorboard: also writes TensorBoard events.
    allow_code: whether a network of the leak's own may be run as code.
    log_fn: gets the threat model before the attack starts; `print`, say.
    progress: hears how far the work has come, see `session.Report`.
    budget: seconds, or a text such as '10m', in which every attack that applies
      is tried, other settings of the client too; audit.json and audit.html say
      what came of it. None: the attack of `audit` alone.

  Returns:
    The content of `result.json`, or of `audit.json`; nothing where another
    process is the leader.

  Raises:
    UserError: for anything the user can mend.
  """
  audit = audit if isinstance(audit, Audit) else Audit.from_dict(audit)
  if jax.process_count() > 1 and audit.attack.name == 'auto':
    raise UserError(
        'attack.name=auto tries one attack after the other in one process. '
        'Name one that iterates, such as feature_matching or ig, to share '
        f'it among {jax.process_count()} processes.')
  if not parallel.is_leader():
    return _assist(audit)
  source = Path(leak_path) if leak_path else None
  if budget is not None:
    from vidleak_jax.experiments import auditing
    return auditing.run(
        audit, Path(folder), budget=budget, leak_path=source,
        allow_code=allow_code, log_fn=log_fn, progress=progress)
  result, = _run([audit], [Path(folder)], Path(folder),
                 Door(source, allow_code), tensorboard, log_fn, progress)
  if isinstance(result, UserError):
    raise result
  return result


def run_many(
    configs: Sequence[Audit | Row], folders: Sequence[Path],
    shared: Path, *, log_fn: Callable[[str], None] = lambda text: None,
    progress: Report | None = None,
) -> list[Row | UserError]:
  """Runs audits that differ in numbers only, as one program.

  Called again with the same audits it goes on where it stopped.

  Args:
    configs: of one `shape_of`.
    folders: a workdir each.
    shared: gets the checkpoints of them all.
    log_fn: gets the first one's threat model.
    progress: hears how far the work has come.

  Returns:
    Of each its result, or what was wrong with it.

  Raises:
    UserError: when the audits differ in shape, or there are other processes.
  """
  audits = [each if isinstance(each, Audit) else Audit.from_dict(each)
            for each in configs]
  if len({shape_of(audit) for audit in audits}) > 1:
    raise UserError('Audits of different shapes cannot share one program.')
  if jax.process_count() > 1:
    raise UserError('Several audits share the devices of one process only.')
  return _run(audits, folders, shared, Door(None, False), False, log_fn,
              progress)


def shape_of(audit: Audit | Row) -> str:
  """Returns what makes an audit's program: those of equal shape run as one.

  Seeds, clips, weights of a victim, strengths of priors and defences, learning
  rates and the like are numbers, which a program takes as arguments.
  """
  audit = audit if isinstance(audit, Audit) else Audit.from_dict(audit)
  return json.dumps({
      'data': [audit.data.num_clips, audit.data.num_frames,
               audit.data.image_size],
      'victim': audit.victim.replace(checkpoint=None).to_dict(),
      'federated': audit.federated.to_dict(),
      'attack': attacks.shape_of(audit.attack, audit.defense),
      'backend': audit.backend.to_dict(),
  }, sort_keys=True)


def _run(audits, folders, shared, door, tensorboard, log_fn, report_progress):
  """Prepares each audit, attacks all at once, finishes each."""
  first = audits[0]
  devices, choices = machine(first)
  facts = {'device_kind': devices[0].device_kind, 'num_devices': len(devices)}
  with ExitStack() as claims, parallel.leading() as share:
    claims.enter_context(backend.settings(choices))
    for audit, folder in zip(audits, folders, strict=True):
      asked = {**audit.to_dict(), 'leak': door.path and str(door.path)}
      claims.enter_context(workdir.claim(folder, asked, facts))
    results = [_finished(folder) for folder in folders]
    if all(results):
      return results
    if first.attack.name == 'none':
      return [done or attempt(_only_enhance, audit, folder, devices,
                              report_progress)
              for done, audit, folder in zip(results, audits, folders)]
    session = Session(tuple(devices), choices, None, tensorboard,
                      report_progress)
    jobs = [attempt(prepare, audit, folder, door, session)
            for audit, folder in zip(audits, folders)]
    found = iter(_attack([job for job in jobs if isinstance(job, Job)],
                         shared, share, log_fn))
    outcomes = [next(found) if isinstance(job, Job) else job for job in jobs]
    return [done or (outcome if isinstance(outcome, UserError)
                     else finish(job, outcome))
            for done, job, outcome in zip(results, jobs, outcomes)]


def machine(audit: Audit):
  """Returns (devices, choices) that an attack may use."""
  devices = parallel.pick_devices(audit.backend.num_devices)
  iterates = audit.attack.name != 'none' and isinstance(
      audit.attack.chosen(), attacks.Iterative)
  if not iterates:
    devices = parallel.own_part(devices)
  given = audit.backend.to_dict()
  del given['num_devices']
  return devices, backend.choose(devices[0].platform, **given)


def _finished(folder) -> Row | None:
  file = folder / 'result.json'
  return json.loads(file.read_text()) if file.exists() else None


def prepare(audit: Audit, folder: Path, door: Door, session: Session) -> Job:
  """Does everything before the attack: the data, and what leaks of them."""
  enlarging.check(audit)
  sample = None if door.path else load_data(audit)
  leak = obtain_leak(audit, folder, door, sample, session.choices)
  return Job(audit, folder, sample, _problem(
      audit, leak, dataclasses.replace(session, folder=folder), door))


def _problem(audit, leak, session, door) -> attacks.Problem:
  """What the attacker has."""
  victim = victim_of(audit, leak, session.choices, door)
  storage.check(leak, jax.eval_shape(victim.init, jax.random.key(0)))
  return attacks.Problem(victim, leak, audit.keys().attack, session)


def _attack(jobs, shared, share, log_fn):
  """Of each job an outcome, or why there is none."""
  if not jobs:
    return []
  chosen = [job.audit.attack.chosen() for job in jobs]
  log_fn(terminal.of_leak(jobs[0].problem.leak))
  if len(jobs) > 1:
    log_fn(f'and so on for {len(jobs)} audits that share a program.')
  if isinstance(chosen[0], attacks.Iterative):
    share(storage.pack(jobs[0].folder))
  return attacks.solve([job.problem for job in jobs], chosen,
                       jobs[0].audit.attack.effort(), shared)


def _assist(audit) -> Row:
  """Lends this process's devices to the leader's attack."""
  devices, choices = machine(audit)
  content = parallel.share(None)
  if content:
    session = Session(tuple(devices), choices, Path())
    problem = _problem(audit, storage.unpack(content), session, Door())
    attacks.solve([problem], [audit.attack.chosen()],
                  audit.attack.effort(), Path())
  return {}


def finish(job: Job, outcome: attacks.Outcome) -> Row:
  """Enlarges, scores and shows one audit's recovery.

  Super-resolution is a stage of the attack: it comes before anything is put
  into an order that the truth tells.
  """
  audit, folder, sample, (victim, leak, _, session) = job
  recovery, cost, findings = outcome
  clips = np.asarray(join(recovery.clips, leak.public.frames_per_clip))
  enhanced = enlarging.enlarged(
      audit, clips, leak.references, max(1, len(clips) // leak.num_updates),
      parallel.own_part(session.devices), session.report)
  scored: Row = {}
  if sample is not None:
    order = scores.alignment(sample, recovery, leak, victim)
    recovery, enhanced = scores.in_order(order, recovery, enhanced)
    clips = np.asarray(join(recovery.clips, leak.public.frames_per_clip))
    scored = scores.score(sample, recovery, leak, victim)
  originals = sample.originals if sample is not None else None
  residual = float(np.mean(np.asarray(recovery.gradient_residual)))
  objective = float(np.mean(recovery.objective))
  if not np.isfinite(objective):  # linear algebra has none of its own
    objective = residual
  result = {
      'attack': audit.attack.chosen().name, **scored,
      **scores.score_enlarged(enhanced, clips, originals),
      'objective': objective, 'match_loss': objective,
      'gradient_residual': residual,
      **publishing.spent(audit, cost, session.devices), **findings}
  publishing.publish(
      folder, sample, clips=clips, enhanced=enhanced, labels=recovery.labels,
      result=result, public=leak.public.to_dict())
  return result


def _only_enhance(audit, folder, devices, report_progress) -> Row:
  """No attack: the true small frames enlarged, to judge that stage alone."""
  enlarging.check(audit)
  sample = load_data(audit)
  truth = np.asarray(sample.batch.clips)
  enhanced = enlarging.enlarged(
      audit, truth, sample.references, 1, devices, report_progress)
  result = scores.score_enlarged(enhanced, truth, sample.originals)
  publishing.publish(
      folder, sample, clips=truth, enhanced=enhanced,
      labels=sample.batch.labels, result=result,
      public={'attack': 'none: these are true frames, enlarged'})
  return result
