"""Trains a generator: on L1 first, then, if asked, against a discriminator.

Real clips come from the caller; what is trained on is cut from photographs.
"""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vidleak_jax import files
from vidleak_jax.runtime import parallel, trainer
from vidleak_jax.runtime.progress import MetricsLog, Progress
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
from vidleak_jax.types import Array, UserError, pick

_RIVALS = {'unet': discriminator.UNetDiscriminator,
           'vgg': discriminator.VGGDiscriminator}


def run(config: dict[str, Any], small: Array, large: Array, score: Callable,
        folder: Path) -> dict[str, Any]:
  """Trains as `configs/train_superres.py` says; goes on where it stopped.

  Writes `stage1.safetensors`, `stage2.safetensors`, for each stage that has
  steps, `interpolated.safetensors` between stage 2 and what it started from,
  `metrics.jsonl` (its steps count through both stages),
  `sample_STAGE_STEP.png`, checkpoints and, last of all, `result.json`.

  Args:
    config: resolved to plain dicts.
    small: validation clips [N, T, h, w, C].
    large: the same enlarged truly, [N, T, H, W, C].
    score: (enhanced, bicubic, large) -> scores, to log.
    folder: the workdir.

  Returns:
    The content of `result.json`: the scores of the last weights, and what they
    cost.
  """
  if (folder / 'result.json').exists():
    return json.loads((folder / 'result.json').read_text())
  devices = parallel.pick_devices(config['num_devices'])
  if config['batch_size'] % len(devices):
    raise UserError(f'batch_size={config["batch_size"]} does not divide over '
                    f'{len(devices)} devices.')
  net = network.build(**config['network'])
  features = _features(config)  # before hours of training, not after
  folder.mkdir(parents=True, exist_ok=True)
  pool = parallel.replicate(make_pool(net, config), devices)
  params = (_started(net, config['start']) if config['start'] else
            net.init(jax.random.key(config['seed'])))

  def judge(params):
    enhanced = np.asarray(upscale.upscale(net, params, small))
    plain = np.asarray(upscale.bicubic(small, net.scale))
    return enhanced, plain, score(enhanced, plain, large)

  scores, steps, spent = {}, 0, 0.0
  with MetricsLog(folder / 'metrics.jsonl') as log:
    for stage in ('stage1', 'stage2'):
      before = params
      if config[stage]['num_steps']:
        params, scores, seconds = _stage(
            stage, config, net, before, features, pool, devices, judge, log,
            folder, steps)
        network.save(folder / f'{stage}.safetensors', net, params)
        steps, spent = steps + config[stage]['num_steps'], spent + seconds
  if config['stage2']['num_steps']:
    network.save(folder / 'interpolated.safetensors', net, network.interpolate(
        before, params, config['interpolation']))
  result = {**scores, 'num_steps': steps, 'seconds': spent,
            'num_devices': len(devices),
            'device_kind': devices[0].device_kind, 'seed': config['seed']}
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


def make_pool(net: network.Network, config: dict[str, Any]) -> step.Pool:
  """Windows cut from photographs, shrunk as the config says."""
  options, small, large = config['pool'], [], []
  shrink = pick({'bicubic': _shrink, 'second_order': _worsen},
                options['degradation'], 'degradation')
  clips = moving.clips(options['num_clips'], net.frames, options['size'],
                       config['seed'])
  with Progress(options['num_clips'], 'cutting clips') as progress:
    for i, clip in enumerate(clips):
      small.append(shrink(np.random.default_rng([config['seed'], i]), clip,
                          net.scale))
      large.append(clip[net.frames // 2])
      progress.update(i + 1)
  return step.Pool(np.stack(small), np.stack(large))


def _shrink(_, clip, scale):
  small = _bicubic(clip.astype(np.float32) / 255, scale)
  return np.round(255 * np.asarray(small)).astype(np.uint8)


def _worsen(rng, clip, scale):
  """All frames alike: a camera's faults stay the same within a second."""
  seed = rng.integers(2 ** 32)
  return np.stack([degrade.second_order(np.random.default_rng(seed), frame,
                                        scale) for frame in clip])


_bicubic = functools.partial(jax.jit, static_argnums=1)(degrade.bicubic)


def _stage(stage, config, net, params, features, pool, devices, judge, log,
           folder, steps_before):
  """Steps of one objective: the averaged params, their scores, the seconds."""
  options = config[stage]
  objective = step.Objective(**options['objective'])
  optimizer = optax.chain(
      optax.clip_by_global_norm(1.0),
      optax.adam(optax.cosine_decay_schedule(
          options['learning_rate'], options['num_steps'])))
  rival, rival_params, rival_optimizer = _rival(options, config)
  advance = step.one_step(
      net, optimizer, objective, max_noise=config['max_noise'],
      batch_size=config['batch_size'] // len(devices), ema=config['ema'],
      features=features, rival=rival, rival_optimizer=rival_optimizer)
  state = jax.device_get(step.State(
      jnp.zeros((), jnp.int32), params, optimizer.init(params), params,
      rival_params, rival_optimizer.init(rival_params)))
  # No scan: inside one XLA's CPU convolutions are 25 times slower.
  run = parallel.on_devices(
      lambda state, pool, key: advance(
          state, pool, jax.random.wrap_key_data(key)), devices, (0,))
  key = parallel.replicate(jax.random.key_data(
      jax.random.key(config['seed'] + 1)), devices)
  num_steps, chunk = options['num_steps'], config['chunk_steps']
  last = {}  # step -> scores of the newest validation

  def at_stop(done, state, terms):
    row = {'stage': stage, **{k: float(v[0]) for k, v in terms.items()}}
    if done % config['validate_steps'] < chunk:
      enhanced, plain, scores = judge(state.ema)
      row |= {k: v for k, v in scores.items() if isinstance(v, float)}
      _picture(folder / f'sample_{stage}_{done}.png', plain, enhanced)
      last.clear()
      last[done] = scores
    return row

  state, seconds = trainer.train(
      state, lambda state, _: run(state, pool, key), at_stop,
      stops={*range(chunk, num_steps, chunk), num_steps}, log=log, what=stage,
      checkpoints=folder / 'checkpoints' / stage, logged_before=steps_before,
      place=lambda state: parallel.replicate(state, devices),
      fetch=lambda state: jax.device_get(jax.tree.map(lambda x: x[0], state)))
  return state.ema, last.get(num_steps) or judge(state.ema)[2], seconds


def _features(config):
  """What the perceptual terms compare; None where no stage has one."""
  features = perceptual.features(**config['perceptual'])
  asked = [stage for stage in ('stage1', 'stage2')
           if config[stage]['num_steps']
           and config[stage]['objective'].get('perceptual')]
  if asked and features is None:
    raise UserError(
        f'{asked[0]}.objective.perceptual is not 0, but perceptual.network is '
        'none. Name a network and its weights_file, or set the weight to 0.')
  return features


def _rival(options, config):
  """The discriminator, its params, its optimizer; of nothing without a GAN."""
  if not options['objective'].get('gan'):
    return None, (), optax.identity()
  module = pick(_RIVALS, options['discriminator'], 'discriminator')(
      options['discriminator_width'])
  scale, noise = config['network']['scale'], options['rival_noise']

  def rival(params, key, frames):
    frames += noise * jax.random.normal(key, frames.shape)
    return module.apply(params, discriminator.with_detail(frames, scale))

  size = config['pool']['size']
  params = jax.jit(module.init)(
      jax.random.key(config['seed'] + 2), jnp.zeros((1, size, size, 6)))
  return rival, params, optax.adam(options['rival_learning_rate'], b1=0.5)


def _picture(path, plain, enhanced):
  """The middle frames of the first clips: bicubic above, enhanced below."""
  from PIL import Image
  middle = plain.shape[1] // 2
  rows = [np.concatenate(x[:4, middle], axis=1) for x in (plain, enhanced)]
  pixels = np.round(255 * np.concatenate(rows)).astype(np.uint8)
  with files.replacing(path) as partial:
    Image.fromarray(pixels).save(partial)
