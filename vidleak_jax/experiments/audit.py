"""The main job, and the file to read first.

Data flows one way: clips -> `client` (gradient, defence) -> leak -> `attacks`
-> `judge` (metrics) -> report. Only this file knows them all; the attacks see
the leak and the victim's public loss, and only the judge truth and recovery.
"""

import json
import resource
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from vidleak_jax import data, files, superres
from vidleak_jax.attacks import dispatch
from vidleak_jax.clients import federated, observe
from vidleak_jax.evaluation import report, scores
from vidleak_jax.evaluation.report import terminal
from vidleak_jax.leaks import storage
from vidleak_jax.runtime import backend, parallel, progress, workdir
from vidleak_jax.types import UserError, attempt, pick

_FRAMES_PER_SECOND = 8  # of the comparison video: slow enough to look at


class _Job(NamedTuple):
  """One audit, ready to be attacked."""
  config: dict[str, Any]
  folder: Path
  sample: data.Sample | None  # None: nobody here knows the truth
  case: dispatch.Case


def run(
    config: dict[str, Any], folder: Path, *,
    leak_path: Path | None = None, tensorboard: bool = False,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
  """Runs one audit and writes all its files under `folder`.

  Started again with the same config it goes on where it stopped; a finished
  run just returns its result. Where JAX runs in several processes, all of them
  call this; only the leader reads data and writes.

  Args:
    config: as `configs/default.py`, resolved to plain dicts.
    folder: the workdir.
    leak_path: attacks this leak file instead of computing one; no data set is
      touched, and nothing is scored.
    tensorboard: also writes TensorBoard events.
    say: where the threat model is told before the attack starts.

  Returns:
    The content of `result.json`; nothing where another process is the leader.

  Raises:
    UserError: for anything the user can mend.
  """
  if not parallel.is_leader():
    return _assist(config)
  result, = _run([config], [folder], folder, leak_path, tensorboard, say)
  if isinstance(result, UserError):
    raise result
  return result


def run_many(
    configs: Sequence[dict[str, Any]], folders: Sequence[Path], shared: Path, *,
    say: Callable[[str], None] = print,
) -> list[dict[str, Any] | UserError]:
  """Runs audits that differ in numbers only, as one program.

  Called again with the same configs it goes on where it stopped.

  Args:
    configs: of one `shape_of`.
    folders: a workdir each.
    shared: gets the checkpoints of them all.
    say: where the first one's threat model is told.

  Returns:
    Of each its result, or what was wrong with it.

  Raises:
    UserError: when the configs differ in shape, or there are other processes.
  """
  if len({shape_of(config) for config in configs}) > 1:
    raise UserError('Audits of different shapes cannot share one program.')
  if jax.process_count() > 1:
    raise UserError('Several audits share the devices of one process only.')
  return _run(configs, folders, shared, None, False, say)


def shape_of(config: dict[str, Any]) -> str:
  """What makes its program: configs of equal shape may run as one.

  Seeds, clips, weights of a victim, strengths of priors and defences, learning
  rates and the like are numbers, which a program takes as arguments.
  """
  parts = ('num_clips', 'num_frames', 'image_size')
  victim = {k: v for k, v in config['victim'].items() if k != 'checkpoint'}
  return json.dumps({
      'data': {name: config['data'][name] for name in parts},
      'victim': victim,
      'federated': config['federated'],
      'defense': dispatch.without_numbers(config['defense']),
      'attack': dispatch.structure(config['attack']),
      'backend': config['backend'],
  }, sort_keys=True)


def _run(configs, folders, shared, leak_path, tensorboard, say):
  """Prepares each audit, attacks all at once, finishes each."""
  devices, choices = _machine(configs[0])
  facts = {'device_kind': devices[0].device_kind, 'num_devices': len(devices)}
  with ExitStack() as claims, parallel.leading() as share:
    for config, folder in zip(configs, folders, strict=True):
      asked = {**config, 'leak': leak_path and str(leak_path)}
      claims.enter_context(workdir.claim(folder, asked, facts))
    results = [_finished(folder) for folder in folders]
    if all(results):
      return results
    if configs[0]['attack']['name'] == 'none':
      return [done or attempt(_only_enhance, config, folder, devices)
              for done, config, folder in zip(results, configs, folders)]
    jobs = [attempt(_prepare, config, folder, leak_path, devices, choices,
                    tensorboard) for config, folder in zip(configs, folders)]
    outcomes = iter(_attack([job for job in jobs if isinstance(job, _Job)],
                            shared, share, say))
    outcomes = [next(outcomes) if isinstance(job, _Job) else job
                for job in jobs]
    return [done or _finish(job, outcome)
            for done, job, outcome in zip(results, jobs, outcomes)]


def _machine(config):
  """(devices, choices) that an attack may use."""
  devices = parallel.pick_devices(config['backend']['num_devices'])
  if not dispatch.iterates(config['attack']['name']):
    devices = parallel.own_part(devices)
  choices = backend.choose(devices[0].platform, **_backend_options(config))
  backend.apply(choices)
  return devices, choices


def _finished(folder) -> dict[str, Any] | None:
  file = folder / 'result.json'
  return json.loads(file.read_text()) if file.exists() else None


def _prepare(config, folder, leak_path, devices, choices, tensorboard) -> _Job:
  """Everything before the attack: the data, and what leaks of them."""
  _check_superres(config)
  config = observe.with_message(config)
  sample = None if leak_path else _load_data(config)
  leak, knowledge = _obtain_leak(config, folder, leak_path, sample, choices)
  case = _case(config, leak, knowledge, devices, choices, folder, tensorboard)
  return _Job(config, folder, sample, case)


def _case(config, leak, knowledge, devices, choices, folder, tensorboard):
  """What the attacker has."""
  victim = observe.victim_of(knowledge, choices)
  storage.check(leak, jax.eval_shape(victim.init, jax.random.key(0)))
  return dispatch.Case(victim, leak, knowledge, _key(config, 'attack'), devices,
                      choices, folder, tensorboard)


def _attack(jobs, shared, share, say):
  """Of each job an outcome, or why there is none."""
  if not jobs:
    return []
  options = [job.config['attack'] for job in jobs]
  first = jobs[0].case
  say(terminal.of_knowledge(first.leak, first.knowledge))
  if len(jobs) > 1:
    say(f'and so on for {len(jobs)} audits that share a program.')
  if dispatch.iterates(options[0]['name']):
    share(storage.pack(jobs[0].folder))
  return dispatch.run([job.case for job in jobs], options, shared)


def _assist(config) -> dict[str, Any]:
  """Lends this process's devices to the leader's attack."""
  devices, choices = _machine(config)
  content = parallel.share(None)
  if content:
    case = _case(config, *storage.unpack(content), devices, choices, Path(),
                 tensorboard=False)
    dispatch.run([case], [config['attack']], Path())
  return {}


def _finish(job, outcome) -> dict[str, Any] | UserError:
  """Scores, enlarges and shows one audit's recovery."""
  if isinstance(outcome, UserError):
    return outcome
  config, folder, sample, case = job
  recovery, cost, findings = outcome
  scores = {}
  if sample is not None:
    recovery, scores = scores.score(
        sample, recovery, case.leak.references, case.victim, config)
  clips = federated.join(recovery.clips, case.knowledge['num_frames'])
  own = parallel.own_part(case.devices)
  enhanced, enlarged = _enhance(config, sample, clips, own)
  result = {
      **scores, **enlarged,
      'match_loss': float(np.mean(recovery.match_loss)),
      **_spent(config, cost, case.devices), **findings}
  _publish(folder, sample, clips, enhanced, recovery.labels, result,
           case.knowledge)
  return result


def _only_enhance(config, folder, devices) -> dict[str, Any]:
  """No attack: the true small frames enlarged, to judge that stage alone."""
  _check_superres(config)
  sample = _load_data(config)
  truth = sample.batch.clips
  enhanced, result = _enhance(config, sample, truth, devices)
  _publish(folder, sample, truth, enhanced, sample.batch.labels, result,
           {'attack': 'none: these are true frames, enlarged'})
  return result


def _load_data(config) -> data.Sample:
  options = dict(config['data'])
  held = config['superres']
  return data.load(options.pop('name'), seed=config['seed'],
                   num_classes=config['victim']['num_classes'],
                   num_references=max(held['num_references'],
                                      config['attack']['num_references']),
                   references=held['references'], **options)


def _obtain_leak(config, folder, leak_path, sample, choices):
  """The leak of this workdir, of the given file, or computed now."""
  own = folder / 'leak.safetensors'
  if own.exists():
    return storage.load(own)
  if leak_path:
    leak, knowledge = storage.load(leak_path)
  else:
    leak, knowledge = observe.compute_leak(
        config, sample, choices, _key(config, 'client'))
  storage.save(folder, leak, knowledge)
  return leak, knowledge


def _scale(config) -> float:
  return config['data']['original_size'] / config['data']['image_size']


def _check_superres(config) -> None:
  """Tells what cannot be enlarged before an attack has spent its time."""
  options = config['superres']
  pick(dict.fromkeys(('none', 'clip')), options['name'], 'superres.name')
  if options['name'] != 'none':
    superres.load(options['weights'], _scale(config))


def _enhance(config, sample, clips, devices):
  """The enlarged clips or None, and their scores against the originals."""
  options = config['superres']
  if options['name'] == 'none':
    return None, scores.score_enlarged()
  originals = references = None
  if sample is not None:
    originals, references = sample.originals, sample.references
    references = references if references.shape[1] else None
  enhanced = superres.enhance(
      clips, references, weights=options['weights'], scale=int(_scale(config)),
      noise=options['noise'], tile=options['tile'],
      batch_size=options['batch_size'], devices=devices)
  return enhanced, scores.score_enlarged(enhanced, clips, originals)


def _spent(config, cost, devices) -> dict[str, Any]:
  stats = devices[0].memory_stats() or {}
  peak = stats.get('peak_bytes_in_use')  # CPU devices do not count theirs
  if peak is None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
  tries = cost.restart_steps // max(1, cost.num_steps)
  return {
      'num_restarts': config['attack']['num_restarts'],
      'num_steps': cost.num_steps,
      'num_devices': max(1, min(len(devices), tries)),  # that had work
      'device_kind': devices[0].device_kind,
      'seconds_compile': cost.seconds_compile,
      'seconds_attack': cost.seconds_attack,
      'restart_steps_per_second': cost.restart_steps / cost.seconds_attack,
      'peak_memory_bytes': peak,
      'seed': config['seed'],
  }


def _publish(folder, sample, clips, enhanced, labels, result, knowledge):
  """Writes recovery, report and, last of all, the result."""
  files.write_arrays(folder / 'recovered.npz', clips=clips,
                     labels=labels.reshape(-1), enhanced=enhanced)
  names = [f'clip {i}' for i in range(len(clips))]
  report.write(
      folder,
      truth=None if sample is None else sample.batch.clips,
      recovered=clips,
      result={k: v for k, v in result.items() if v is not None},
      metrics_rows=progress.read_rows(folder / 'metrics.jsonl'),
      knowledge=knowledge,
      names=names if sample is None else sample.names,
      fps=_FRAMES_PER_SECOND,
      enhanced=enhanced,
      original=None if sample is None or enhanced is None else sample.originals,
      setup=json.loads((folder / 'config.json').read_text()))
  files.write_json(folder / 'result.json', result)


def _backend_options(config):
  return {k: v for k, v in config['backend'].items() if k != 'num_devices'}


def _key(config, stage: str):
  """Each stage's own randomness, by name."""
  stages = ('client', 'attack')
  key = jax.random.key(config['seed'])
  return dict(zip(stages, jax.random.split(key, len(stages))))[stage]
