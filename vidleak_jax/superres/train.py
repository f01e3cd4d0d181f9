"""Trains a generator: on L1 first, then, if asked, against a discriminator.

Real clips come from the caller; what is trained on is cut from photographs.
"""

import functools
import json
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vidleak_jax import files
from vidleak_jax.runtime import parallel, trainer
from vidleak_jax.runtime.progress import MetricsLog
from vidleak_jax.runtime.session import Report
from vidleak_jax.superres import (
  degrade,
  discriminator,
  moving,
  network,
  perceptual,
  step,
  upscale,
)
from vidleak_jax.superres.enhance import SHIPPED
from vidleak_jax.superres.spec import TrainingSpec
from vidleak_jax.types import Array, Row, UserError

_DISCRIMINATORS = {'unet': discriminator.UNetDiscriminator,
                   'vgg': discriminator.VGGDiscriminator}


def run(spec: TrainingSpec, small: Array, large: Array, score: Callable,
        folder: Path, *, progress: Report | None = None) -> Row:
  """Trains a generator; goes on where it stopped.

  Writes `stage1.safetensors`, `stage2.safetensors`, for each stage that has
  steps, `interpolated.safetensors` between stage 2 and what it started from,
  `metrics.jsonl` (its steps count through both stages),
  `sample_STAGE_STEP.png`, checkpoints and, last of all, `result.json`.

  Args:
    spec: what learns from what, and how long.
    small: validation clips [N, T, h, w, C].
    large: the same enlarged truly, [N, T, H, W, C].
    score: (enhanced, bicubic, large) -> scores, to log.
    folder: the workdir.
    progress: hears how far the work has come, see `session.Report`.

  Returns:
    The content of `result.json`: the scores of the last weights, and what they
    cost.

  Raises:
    UserError: for anything the user can mend.
  """
  if (folder / 'result.json').exists():
    return json.loads((folder / 'result.json').read_text())
  devices = parallel.pick_devices(spec.num_devices)
  if spec.batch_size % len(devices):
    raise UserError(f'batch_size={spec.batch_size} does not divide over '
                    f'{len(devices)} devices.')
  net = network.from_spec(spec.network)
  if large.shape[2] != net.scale * small.shape[2]:
    raise UserError(
        f'The network enlarges by {net.scale}, but the clips to judge it on '
        f'have sides of {small.shape[2]} and {large.shape[2]}. Set '
        'validation.original_size to that multiple of validation.image_size.')
  features = perceptual.features(spec.perceptual.network,
                                 spec.perceptual.weights_file)
  folder.mkdir(parents=True, exist_ok=True)
  pool = parallel.replicate(make_pool(net, spec, progress), devices)
  params = (_started(net, spec.start) if spec.start else
            net.init(jax.random.key(spec.seed)))

  def judge(params):
    enhanced = np.asarray(upscale.upscale(net, params, small))
    plain = np.asarray(upscale.bicubic(small, net.scale))
    return enhanced, plain, score(enhanced, plain, large)

  scores, steps, spent = {}, 0, 0.0
  with MetricsLog(folder / 'metrics.jsonl') as log:
    for stage in ('stage1', 'stage2'):
      before, own = params, getattr(spec, stage)
      if own.num_steps:
        params, scores, seconds = _stage(
            stage, spec, net, before, features, pool, devices, judge, log,
            folder, steps, progress)
        network.save(folder / f'{stage}.safetensors', net, params)
        steps, spent = steps + own.num_steps, spent + seconds
  if spec.stage2.num_steps:
    network.save(folder / 'interpolated.safetensors', net, network.interpolate(
        before, params, spec.interpolation))
  result = {**scores, 'num_steps': steps, 'seconds': spent,
            'num_devices': len(devices),
            'device_kind': devices[0].device_kind, 'seed': spec.seed}
  files.write_json(folder / 'result.json', result)
  return result


def _started(net, path):
  """The params of a file (or `shipped`) that holds the very network."""
  found, params = network.load(SHIPPED if path == 'shipped' else path)
  if found.module != net.module:
    has, asked = (
        ' '.join(repr(each.module).replace('# attributes', '').split())
        for each in (found, net))
    raise UserError(f'{path} holds {has}, but the config asks for {asked}. Say '
                    'so in network, or start elsewhere.')
  return params


def make_pool(net: network.Network, spec: TrainingSpec,
              progress: Report | None = None) -> step.Pool:
  """Returns windows cut from photographs, shrunk as the spec says."""
  options, small, large = spec.pool, [], []
  shrink = _SHRINK[options.degradation]
  clips = moving.clips(options.num_clips, net.frames, options.size, spec.seed)
  for i, clip in enumerate(clips):
    small.append(shrink(np.random.default_rng([spec.seed, i]), clip, net.scale))
    large.append(clip[net.frames // 2])
    if progress:
      progress('cutting clips', i + 1, options.num_clips)
  return step.Pool(np.stack(small), np.stack(large))


def _shrink(_, clip, scale):
  small = _bicubic(clip.astype(np.float32) / 255, scale)
  return np.round(255 * np.asarray(small)).astype(np.uint8)


def _worsen(rng, clip, scale):
  """All frames alike: a camera's faults stay the same within a second."""
  seed = rng.integers(2 ** 32)
  return np.stack([degrade.second_order(np.random.default_rng(seed), frame,
                                        scale) for frame in clip])


_SHRINK = {'bicubic': _shrink, 'second_order': _worsen}
_bicubic = functools.partial(jax.jit, static_argnums=1)(degrade.bicubic)


def _stage(stage, spec, net, params, features, pool, devices, judge, log,
           folder, steps_before, progress):
  """Steps of one objective: the averaged params, their scores, the seconds."""
  options = getattr(spec, stage)
  optimizer = optax.chain(
      optax.clip_by_global_norm(1.0),
      optax.adam(optax.cosine_decay_schedule(
          options.learning_rate, options.num_steps)))
  discriminate, disc_params, disc_optimizer = _discriminator(options, spec)
  advance = step.one_step(
      net, optimizer, options.objective, max_noise=spec.max_noise,
      batch_size=spec.batch_size // len(devices), ema=spec.ema,
      features=features, discriminate=discriminate,
      disc_optimizer=disc_optimizer)
  state = jax.device_get(step.State(
      jnp.zeros((), jnp.int32), params, optimizer.init(params), params,
      disc_params, disc_optimizer.init(disc_params)))
  # No scan: inside one XLA's CPU convolutions are 25 times slower.
  run = parallel.on_devices(
      lambda state, pool, key: advance(
          state, pool, jax.random.wrap_key_data(key)), devices, (0,))
  key = parallel.replicate(jax.random.key_data(
      jax.random.key(spec.seed + 1)), devices)
  num_steps, chunk = options.num_steps, spec.chunk_steps
  last = {}  # step -> scores of the newest validation

  def at_stop(done, state, terms):
    row = {'stage': stage, **{k: float(v[0]) for k, v in terms.items()}}
    if done % spec.validate_steps < chunk:
      enhanced, plain, scores = judge(state.ema)
      row |= {k: v for k, v in scores.items() if isinstance(v, float)}
      _picture(folder / f'sample_{stage}_{done}.png', plain, enhanced)
      last.clear()
      last[done] = scores
    return row

  state, seconds = trainer.train(
      state, lambda state, _: run(state, pool, key), at_stop,
      stops={*range(chunk, num_steps, chunk), num_steps}, log=log, what=stage,
      progress=progress,
      checkpoints=folder / 'checkpoints' / stage, logged_before=steps_before,
      place=lambda state: parallel.replicate(state, devices),
      fetch=lambda state: jax.device_get(jax.tree.map(lambda x: x[0], state)))
  return state.ema, last.get(num_steps) or judge(state.ema)[2], seconds


def _discriminator(options, spec):
  """The discriminator, its params, its optimizer; of nothing without a GAN."""
  if not options.objective.gan:
    return None, (), optax.identity()
  module = _DISCRIMINATORS[options.discriminator](options.discriminator_width)
  scale, noise = spec.network.scale, options.discriminator_noise

  def discriminate(params, key, frames):
    frames += noise * jax.random.normal(key, frames.shape)
    return module.apply(params, discriminator.with_detail(frames, scale))

  size = spec.pool.size
  params = jax.jit(module.init)(
      jax.random.key(spec.seed + 2), jnp.zeros((1, size, size, 6)))
  return discriminate, params, optax.adam(
      options.discriminator_learning_rate, b1=0.5)


def _picture(path, plain, enhanced):
  """The middle frames of the first clips: bicubic above, enhanced below."""
  from PIL import Image
  middle = plain.shape[1] // 2
  rows = [np.concatenate(x[:4, middle], axis=1) for x in (plain, enhanced)]
  pixels = np.round(255 * np.concatenate(rows)).astype(np.uint8)
  with files.replacing(path) as partial:
    Image.fromarray(pixels).save(partial)
