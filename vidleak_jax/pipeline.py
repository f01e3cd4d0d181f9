"""The main job, and the file to read first.

Data flows one way: clips -> the client's gradient -> defence -> leak -> attack
-> metrics -> report. Only this file knows all stages; the attack sees the leak
and the victim's public loss, and only the metrics see truth and recovery.
"""

import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vidleak_jax import (
  attacks,
  backend,
  data,
  defenses,
  federated,
  files,
  leak_file,
  metrics,
  parallel,
  progress,
  report,
  summary,
  superres,
  victims,
  workdir,
)
from vidleak_jax.types import Leak, Recovery, UserError, Victim, pick

_FRAMES_PER_SECOND = 8  # of the comparison video: slow enough to look at
_SUPERRES_KEYS = (
    'psnr_enhanced', 'ssim_enhanced', 'psnr_bicubic', 'ssim_bicubic',
    'flicker_enhanced', 'flicker_bicubic')


def run(
    config: dict[str, Any], folder: Path, *,
    leak_path: Path | None = None, tensorboard: bool = False,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
  """Runs one audit and writes all its files under `folder`.

  Started again with the same config it goes on where it stopped; a finished
  run just returns its result.

  Args:
    config: as `configs/default.py`, resolved to plain dicts.
    folder: the workdir.
    leak_path: attacks this leak file instead of computing one; no data set is
      touched, and nothing is scored.
    tensorboard: also writes TensorBoard events.
    say: where the threat model is told before the attack starts.

  Returns:
    The content of `result.json`.

  Raises:
    UserError: for anything the user can mend.
  """
  devices = parallel.pick_devices(config['backend']['num_devices'])
  choices = backend.choose(devices[0].platform, **_backend_options(config))
  backend.apply(choices)
  asked = {**config, 'leak': leak_path and str(leak_path)}
  facts = {'device_kind': devices[0].device_kind, 'num_devices': len(devices)}
  with workdir.claim(folder, asked, facts):
    if (folder / 'result.json').exists():
      return json.loads((folder / 'result.json').read_text())
    _check_superres(config)
    config = _with_message(config)
    sample = None if leak_path else _load_data(config)
    if config['attack']['name'] == 'none':
      return _only_enhance(config, sample, folder, devices)
    leak, knowledge = _obtain_leak(config, folder, leak_path, sample, choices)
    say(summary.of_knowledge(leak, knowledge))
    victim = _build_victim(knowledge, choices)
    leak_file.check(leak, jax.eval_shape(victim.init, jax.random.key(0)))
    case = attacks.Case(victim, leak, knowledge, _key(config, 'attack'),
                        devices, choices, folder, tensorboard)
    recovery, cost, findings = attacks.run(case, config['attack'])
    scores = {}
    if sample is not None:  # else nobody here knows the truth
      recovery, scores = _score(
          sample, recovery, leak.references, victim, config)
    clips = federated.join(recovery.clips, knowledge['num_frames'])
    enhanced, enlarged = _enhance(config, sample, clips, devices)
    result = {
        **scores, **enlarged,
        'match_loss': float(np.mean(recovery.match_loss)),
        **_spent(config, cost, devices), **findings}
    _publish(folder, sample, clips, enhanced, recovery.labels, result,
             knowledge)
  return result


def _only_enhance(config, sample, folder, devices) -> dict[str, Any]:
  """No attack: the true small frames enlarged, to judge that stage alone."""
  if sample is None:
    raise UserError('attack.name=none needs a data set, not a --leak.')
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
    return leak_file.load(own)
  if leak_path:
    leak, knowledge = leak_file.load(leak_path)
  else:
    leak, knowledge = _compute_leak(config, sample, choices)
  leak_file.save(folder, leak, knowledge)
  return leak, knowledge


def _compute_leak(config, sample, choices) -> tuple[Leak, dict[str, Any]]:
  """What an honest client sends, and what of its set-up is public."""
  federation = config['federated']
  messages = federated.split(sample.batch, federation['message'])
  num_messages, batch_size, *clip_shape = messages.clips.shape
  asked = dict(config['victim'])
  dropout = asked.pop('dropout_active')
  checkpoint = asked.pop('checkpoint')
  knowledge = {
      'victim': victims.resolve(**asked),
      'weights': checkpoint or 'as initialised',
      'dropout': 'active' if dropout else 'not active',
      'clip_shape': clip_shape,
      'num_frames': config['data']['num_frames'],
      'batch_size': batch_size,
      'num_messages': num_messages,
      'federated': federation,
      'labels': 'known' if federation['labels_known'] else 'not known',
      'defense': {k: v for k, v in config['defense'].items() if v} or 'none',
      'reference_frames': (list(config['superres']['references'])
                           or sample.references.shape[1]),
  }
  victim = _build_victim(knowledge, choices)
  knowledge['frozen'] = victim.known or 'nothing'
  params, noise, masks = jax.random.split(_key(config, 'client'), 3)
  weights = victim.init(params)
  if checkpoint:
    weights = victims.load(config['victim']['name'], weights, checkpoint)
  leak = federated.send(
      federated.client_of(victim.loss, federation), weights, messages,
      defenses.build(noise, **config['defense']),
      dropout_key=masks if dropout else None,
      labels_known=federation['labels_known'])
  if sample.references.shape[1]:
    leak = leak._replace(references=_shrunk(
        sample.references, config['data']['image_size']))
  return leak, knowledge


def _shrunk(frames, size) -> np.ndarray:
  """Frames [N, R, L, L, C] at the attacked resolution."""
  shape = (*frames.shape[:2], size, size, frames.shape[-1])
  return np.clip(jax.image.resize(frames, shape, 'cubic'), 0, 1)


def _with_message(config) -> dict[str, Any]:
  """`federated.message=auto` becomes what the victim's closed form needs."""
  if config['federated']['message'] != 'auto':
    return config
  message = victims.natural_message(**config['victim'])
  return config | {'federated': config['federated'] | {'message': message}}


def _build_victim(knowledge, choices) -> Victim:
  return victims.build(**knowledge['victim'], lowering=choices.lowering,
                       clip_shape=tuple(knowledge['clip_shape']))


def _score(sample, recovery, references, victim,
           config) -> tuple[Recovery, dict[str, Any]]:
  """Truth and recovery meet here, and only here.

  The clips of one gradient come back in any order, so the metrics align them
  within their message; the files keep that order.
  """
  truth = federated.split(sample.batch, config['federated']['message'])
  rows = np.arange(len(truth.clips))[:, None]
  order = metrics.assign(recovery.clips, truth.clips)
  aligned = recovery._replace(clips=recovery.clips[rows, order],
                              labels=recovery.labels[rows, order])
  clips = federated.join(aligned.clips, config['data']['num_frames'])
  more = {}
  if recovery.features is not None:  # of frames, or of whole clips their mean
    features = victim.features(truth.clips[:, 0])
    if recovery.features.shape[1] < features.shape[1]:
      features = features.mean(1, keepdims=True)
    more['feature_relative_error'] = metrics.relative_error(
        recovery.features, features)
  return aligned, {
      **metrics.score(clips, sample.batch.clips, sample.unrelated,
                      _best_copy(references, sample.batch.clips)),
      **more,
      'label_accuracy': metrics.label_accuracy(aligned.labels, truth.labels),
  }


def _best_copy(references, truth) -> np.ndarray | None:
  """[N, 1, S, S, C]: of each clip's references the one that is nearest it."""
  if references is None:
    return None
  best = []
  for held, clip in zip(references, truth, strict=True):
    scores = [metrics.psnr(np.broadcast_to(one, clip.shape), clip).mean()
              for one in held]
    best.append(held[np.argmax(scores)])
  return np.stack(best)[:, None]


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
    return None, dict.fromkeys(_SUPERRES_KEYS)
  scale = int(_scale(config))
  references = None if sample is None else sample.references
  if references is not None and not references.shape[1]:
    references = None
  enhanced = superres.enhance(
      clips, references, weights=options['weights'], scale=scale,
      noise=options['noise'], devices=devices)
  if sample is None:
    return enhanced, dict.fromkeys(_SUPERRES_KEYS)
  bicubic = np.asarray(superres.bicubic(clips, scale))
  return enhanced, {
      **metrics.score_enhanced(enhanced, bicubic, sample.originals),
      'flicker_enhanced': superres.flicker(enhanced, sample.originals),
      'flicker_bicubic': superres.flicker(bicubic, sample.originals),
  }


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
