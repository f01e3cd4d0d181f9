"""Trains a victim, so that leakage can be measured early and late in training.

Data-parallel over devices; the batch of a step depends on (seed, step) only, so
a run that goes on draws what an uninterrupted one would have drawn.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from vidleak_jax import data, files, victims
from vidleak_jax.experiments import augment
from vidleak_jax.experiments.shared_gradient import shared_gradient
from vidleak_jax.experiments.training_spec import TrainingSpec
from vidleak_jax.models import weights
from vidleak_jax.runtime import backend, parallel, trainer, workdir
from vidleak_jax.runtime.progress import MetricsLog
from vidleak_jax.runtime.session import Report
from vidleak_jax.specs import DefenseSpec, NetworkSpec, VictimSpec
from vidleak_jax.types import (
  Array,
  Batch,
  Params,
  PRNGKey,
  Row,
  UserError,
  Victim,
)

_AXIS = 'devices'  # of parallel.on_devices
_STATISTICS = 'batch_stats'
_NO_DEFENSE = DefenseSpec()
_NOISE = 2**31  # more than devices: the key of what they share
_TESTED = 8  # an extractor is tested on every eighth frame

OPTIMIZERS = {
    'adamw': lambda rate, decay, momentum: optax.adamw(
        rate, weight_decay=decay, mask=_kernels),
    'sgd': lambda rate, decay, momentum: optax.chain(
        optax.add_decayed_weights(decay, _kernels),
        optax.sgd(rate, momentum, nesterov=True)),
}


class State(NamedTuple):
  """All that training changes; the same on every device."""
  step: Array    # [] int32
  params: Params
  opt_state: optax.OptState


def run(spec: TrainingSpec, folder: Path, *,
        progress: Report | None = None) -> Row:
  """Trains a victim; goes on where it stopped.

  Writes `params.safetensors` (for `victim.checkpoint`), the same under
  `snapshots/step_N.safetensors` at the asked fractions of the run,
  `metrics.jsonl`, `checkpoints/` and, last of all, `result.json`.

  Args:
    spec: what learns from what, and how long.
    folder: the workdir.
    progress: hears how far the work has come, see `session.Report`.

  Returns:
    The content of `result.json`: `accuracy_test`, `accuracy_train` and what
    they cost.

  Raises:
    UserError: for anything the user can mend.
  """
  devices = parallel.pick_devices(spec.backend.num_devices)
  choices = backend.choose(
      devices[0].platform, lowering=spec.backend.lowering,
      precision=spec.backend.precision)
  if spec.batch_size % len(devices):
    raise UserError(f'batch_size={spec.batch_size} does not divide over '
                    f'{len(devices)} devices. Make it a multiple, or set '
                    'backend.num_devices.')
  with (backend.settings(choices),
        workdir.claim(folder, spec.to_dict(), {'num_devices': len(devices)})):
    if (folder / 'result.json').exists():
      return json.loads((folder / 'result.json').read_text())
    train, test, class_names = _load(spec)
    learner, tester = _victims(spec.victim, train, len(class_names), choices)
    change = augment.build(class_names, **spec.augment.to_dict())
    state, spent = _train(spec, folder, devices, learner, tester, change,
                          train, test, progress)
    judge = _judge(tester)
    result = {
        'accuracy_test': judge(state.params, test),
        'accuracy_train': judge(state.params, train),
        'num_clips_train': len(train.labels),
        'num_clips_test': len(test.labels), 'num_steps': spec.num_steps,
        'seconds': spent, 'num_devices': len(devices),
        'device_kind': devices[0].device_kind, 'seed': spec.seed}
    weights.save(folder / 'params.safetensors', state.params)
    files.write_json(folder / 'result.json', result)
  return result


def _load(spec):
  """Train and test batches and the class names, which must agree."""
  options = spec.data.to_dict()
  splits = options.pop('train_split'), options.pop('test_split')
  if spec.victim.name == 'frozen':
    return _frames(data.train_arrays(
        split=splits[0], seed=spec.seed, **options)[0].clips)
  parts = [data.train_arrays(split=splits[0], seed=spec.seed + i,
                             **options)
           for i in range(spec.clips_per_video)]
  test, names = data.train_arrays(
      split=splits[1], seed=spec.seed, **options)
  class_names = parts[0][1]
  if names != class_names:
    raise UserError(f'The splits {splits[0]!r} and {splits[1]!r} have '
                    f'different classes: {class_names} and {names}.')
  train = Batch(*map(np.concatenate, zip(*(batch for batch, _ in parts))))
  return train, test, class_names


def _frames(clips):
  """Frames to learn an extractor from: it is to tell which clip each is of.

  So no labels are needed (1406.6909). Every eighth frame is kept for the test.
  """
  count, num_frames = clips.shape[:2]
  labels = np.tile(np.arange(count, dtype=np.int32)[:, None], num_frames)
  tested = np.arange(num_frames) % _TESTED == _TESTED - 1
  train, test = (Batch(clips[:, part].reshape(-1, 1, *clips.shape[2:]),
                       labels[:, part].reshape(-1))
                 for part in (~tested, tested))
  return train, test, [f'clip {i}' for i in range(count)]


def _victims(
    network: NetworkSpec, train: Batch, num_classes: int,
    choices: backend.Choices,
) -> tuple[Victim, Victim]:
  """One that learns, on its batch's statistics, and one that is tested."""
  spec = VictimSpec(num_classes=num_classes, **network.to_dict())
  resolved = victims.resolve(network.name, num_classes,
                             **network.network_options())

  def build(norm):
    return victims.from_spec(spec.replace(norm=norm or spec.norm),
                             train.clips.shape[1:], choices.lowering)

  if resolved.get('norm') in ('fixed', 'batch'):
    return build('batch'), build('fixed')
  return build(None), build(None)


def _train(spec, folder, devices, learner, tester, change, train, test,
           progress):
  """The last state, on the host, and the seconds spent in all."""
  num_steps, judge = spec.num_steps, _judge(tester)
  optimizer = _optimizer(spec)
  params = learner.init(jax.random.key(spec.seed))
  if spec.defense.dp_sgd.clip_norm and _STATISTICS in params:
    raise UserError('defense.dp_sgd needs the gradient of one clip alone; '
                    "BatchNorm's statistics mix a batch. Set victim.norm to "
                    'group, layer or none.')
  state = jax.device_get(State(
      jnp.zeros((), jnp.int32), params, optimizer.init(_learned(params))))
  step = parallel.on_devices(
      one_step(learner, optimizer, change, spec.defense), devices,
      donate=(0,))
  key = parallel.replicate(
      jax.random.key_data(jax.random.key(spec.seed + 1)), devices)
  snapshots = {round(share * num_steps) for share in spec.snapshots}

  def advance(placed, i):
    batch = _draw(train, spec.batch_size, spec.seed, i)
    return step(placed, parallel.spread(batch, devices), key)

  def at_stop(done, state, terms):
    row = {k: float(v[0]) for k, v in jax.device_get(terms).items()}
    _snapshot(folder, snapshots, state)
    return row | {'accuracy_test': judge(state.params, test)}

  with MetricsLog(folder / 'metrics.jsonl') as log:
    return trainer.train(
        state, advance, at_stop, stops=_stops(spec), log=log,
        progress=progress,
        checkpoints=folder / 'checkpoints',
        place=lambda state: parallel.replicate(state, devices),
        fetch=lambda placed: jax.device_get(
            jax.tree.map(lambda x: x[0], placed)),
        at_start=lambda state: _snapshot(folder, snapshots, state))


def one_step(
    victim: Victim, optimizer: optax.GradientTransformation,
    change: Callable[[PRNGKey, Batch], Batch],
    defense: DefenseSpec = _NO_DEFENSE,
) -> Callable[[State, Batch, Array], tuple[State, dict[str, Array]]]:
  """Returns `step(state, batch, key)`, to run under `parallel.on_devices`.

  Args:
    victim: the one that learns.
    optimizer: of all params but BatchNorm's running statistics, which move by
      `victim.statistics`, averaged over the devices.
    change: the augmentation of a device's share of the batch.
    defense: what the gradient passes before the optimizer sees it.
  """

  def step(state, batch, key):
    key = jax.random.fold_in(jax.random.wrap_key_data(key), state.step)
    noise_key = jax.random.fold_in(key, _NOISE)
    key = jax.random.fold_in(key, lax.axis_index(_AXIS))
    augment_key, dropout_key = jax.random.split(key)
    clips, labels = change(augment_key, batch)
    constant = {k: v for k, v in state.params.items() if k == _STATISTICS}

    def loss(learned, clips, labels, key):
      return victim.loss(learned | constant, clips, labels, key)

    value, grads = shared_gradient(
        loss, _learned(state.params), Batch(clips, labels), defense,
        noise_key=noise_key, dropout_key=dropout_key, axis=_AXIS)
    if constant:
      assert victim.statistics  # of a network with such constants
      moved = victim.statistics(state.params, clips)[_STATISTICS]
      constant = {_STATISTICS: lax.pmean(moved, _AXIS)}
    learned = _learned(state.params)
    updates, opt_state = optimizer.update(grads, state.opt_state, learned)
    params = optax.apply_updates(learned, updates) | constant
    return (State(state.step + 1, params, opt_state),
            {'loss': value})

  return step


def _optimizer(spec):
  rate = optax.warmup_cosine_decay_schedule(
      0.0, spec.learning_rate, spec.warmup_steps,
      spec.num_steps)
  return optax.chain(
      optax.clip_by_global_norm(spec.clip_norm),
      OPTIMIZERS[spec.optimizer](rate, spec.weight_decay, spec.momentum))


def _stops(spec):
  """Steps after which the run is logged and saved."""
  num_steps = spec.num_steps
  shares = (round(share * num_steps) for share in spec.snapshots)
  return sorted({*range(spec.chunk_steps, num_steps,
                        spec.chunk_steps), *shares, num_steps} - {0})


def _draw(train, size, seed, step):
  rows = np.random.default_rng([seed, step]).integers(
      0, len(train.labels), size)
  return Batch(train.clips[rows], train.labels[rows])


def _judge(victim, size=64):
  """`(params, batch) -> share of labels that the victim gets right`."""
  logits = jax.jit(victim.logits)

  def accuracy(params, batch):
    count = len(batch.labels)
    rows = np.arange(math.ceil(count / size) * size) % count  # one shape
    parts = [np.asarray(logits(params, batch.clips[part])).argmax(-1)
             for part in np.split(rows, len(rows) // size)]
    return float(np.mean(np.concatenate(parts)[:count] == batch.labels))
  return accuracy


def _snapshot(folder, steps, state):
  if int(state.step) in steps:
    (folder / 'snapshots').mkdir(exist_ok=True)
    weights.save(folder / 'snapshots' / f'step_{state.step}.safetensors',
                 state.params)


def _learned(params):
  return {k: v for k, v in params.items() if k != _STATISTICS}


def _kernels(params):
  """Which leaves decay: not biases, nor the scales of norms."""
  return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
