"""How long one attack step takes, beside others that do the same work.

  python benchmarks/restart_steps.py --quick --peers=breaching,torch
  python benchmarks/restart_steps.py --sweep_choices

Prints one JSON line a row. `ratio` is the row's time over ours with the
backend's default choices; both were measured in turns. `ceiling_share` is the
floor of a step's FLOPs (7 forward passes) over its time, as a share of the rate
of a large matrix product measured in the same turns. `gradient_gap` is the
relative distance of the row's gradient of the objective from ours; in our own
row from JAX's double backward through XLA's convolutions. Look at `load` (of
the machine, a minute's mean, per core): far above 1, PyTorch's threads wait for
each other and its rows mean little; `taskset -c 0` in front then gives all one
core, and ratios that hold.
"""

import json
import os
import platform
import statistics
import time
from collections.abc import Iterator

import jax
import numpy as np
import peers
import problem as problems
import timing
from absl import flags

from vidleak_jax import backend, launcher, parallel
from vidleak_jax.attack import restarts
from vidleak_jax.types import Guess, UserError

_QUICK = flags.DEFINE_bool('quick', False, 'Two sizes, short blocks: minutes.')
_PEERS = flags.DEFINE_list(
    'peers', [], 'Of breaching, torch, torch_compile: the extra [peers].')
_CASES = flags.DEFINE_list(
    'cases', None, 'Frames x height x width : restarts, as 8x32x32:8,...')
_SWEEP = flags.DEFINE_bool(
    'sweep_choices', False, 'Rows by lowering and restart batch instead.')
_DEVICES = flags.DEFINE_integer('num_devices', 0, 'Of this machine; 0: all.')
_PRESET = flags.DEFINE_string('preset', 'strided', 'Of the victim c3d.')

_QUICK_CASES = ['8x32x32:8', '16x64x64:4']
_FULL_CASES = ['8x32x32:1', '8x32x32:8', '8x32x32:64', '16x64x64:1',
               '16x64x64:4', '16x64x64:16', '16x112x112:1', '16x112x112:4']
_RESTART_BATCHES = (1, 2, 4, 8, 64)
_QUICK_EFFORT = timing.Effort(seconds=0.5, blocks=5, limit=60)
_FULL_EFFORT = timing.Effort(seconds=2, blocks=9, limit=600)


def main() -> None:
  cases = _CASES.value or (_QUICK_CASES if _QUICK.value else _FULL_CASES)
  cases = [_parse(case) for case in cases]
  effort = _QUICK_EFFORT if _QUICK.value else _FULL_EFFORT
  devices = parallel.pick_devices(_DEVICES.value)
  backend.apply(backend.choose(devices[0].platform))
  jax.config.update('jax_enable_compilation_cache', False)  # is timed, too
  for case in cases:
    case = *case, _PRESET.value, devices, effort
    for row in sweep(*case) if _SWEEP.value else compare(*case, _PEERS.value):
      print(json.dumps(row), flush=True)


def compare(
    clip_shape: tuple[int, ...], num_restarts: int, preset: str,
    devices: list[jax.Device], effort: timing.Effort, names: list[str],
) -> Iterator[dict]:
  """Our row, then one for each peer."""
  choices = backend.choose(devices[0].platform)
  problem = problems.build(clip_shape, preset, choices.lowering)
  runners = {'self': ours(problem, num_restarts, choices, devices)}
  for name in names:
    runners[name] = peers.build(name, problem, num_restarts)
  gaps = {name: problems.gap(runner.gradient, runners['self'].gradient)
          for name, runner in runners.items()}
  gaps['self'] = problems.gap(runners['self'].gradient,
                              problems.plain_gradient(problem, preset))
  labels = {name: {'peer': name, 'gradient_gap': gaps[name],
                   **(choices._asdict() if name == 'self' else {})}
            for name in runners}
  yield from _rows(problem, num_restarts, preset, devices, runners, labels,
                   effort)


def sweep(
    clip_shape: tuple[int, ...], num_restarts: int, preset: str,
    devices: list[jax.Device], effort: timing.Effort,
) -> Iterator[dict]:
  """A row for each lowering and restart batch; the defaults come first."""
  default = backend.choose(devices[0].platform)
  share = num_restarts // len(devices)
  runners, labels = {}, {}
  for choices in _candidates(default, share):
    problem = problems.build(clip_shape, preset, choices.lowering)
    key = 'self' if choices == default else str(choices)
    runners[key] = ours(problem, num_restarts, choices, devices)
    gap = problems.gap(runners[key].gradient, runners['self'].gradient)
    labels[key] = {'peer': 'self', **choices._asdict(), 'gradient_gap': gap}
  yield from _rows(problem, num_restarts, preset, devices, runners, labels,
                   effort)


def ours(problem, num_restarts, choices, devices) -> peers.Runner:
  """The engine's step, on all devices."""
  attack = problems.attack(problem)
  if num_restarts % len(devices):
    raise UserError(f'{num_restarts} restarts do not divide among '
                    f'{len(devices)} devices: change --cases or --num_devices.')
  clips = np.zeros((1, 1, *problem.clip.shape), np.float32)
  templates = Guess(clips[None], np.full((1, 1, 1), problem.label, np.int32))
  tries = restarts.plan(templates, num_restarts, num_restarts)
  trial = restarts.Trials(
      problem.leak, {}, jax.random.key_data(jax.random.key(0)))
  trials = parallel.replicate(
      jax.tree.map(lambda leaf: leaf[None], trial), devices)
  tries = parallel.spread(tries, devices)
  start = parallel.on_devices(restarts.starter(lambda _: attack), devices)
  state = start(tries, trials)
  step = parallel.on_devices(
      restarts.runner(lambda _: attack, choices.restart_batch), devices,
      donate=(0,))

  def run(num_steps):
    nonlocal state
    steps = np.full(num_restarts, num_steps, np.int32)
    state, _ = jax.block_until_ready(
        step(state, tries, trials, parallel.spread(steps, devices)))

  began = time.perf_counter()
  run(0)  # compiles
  seconds = time.perf_counter() - began
  return peers.Runner(run, problems.gradient(problem), seconds, jax.__version__)


def _rows(problem, num_restarts, preset, devices, runners, labels, effort):
  """Times all runners in turns with the matrix product."""
  product, product_flops = timing.matmul(devices)
  runs = {name: runner.run for name, runner in runners.items()}
  blocks = timing.interleave({**runs, 'matmul': product}, effort)
  seconds = {name: statistics.median(own) for name, own in blocks.items()}
  load = os.getloadavg()[0] / os.cpu_count()
  rate = product_flops / seconds['matmul']
  floor = problems.flops(problem) * num_restarts
  for name, runner in runners.items():
    yield {
        'name': 'restart_steps',
        'victim': f'c3d/{preset}/gelu',
        'shape': list(problem.clip.shape),
        'restarts': num_restarts,
        'ms_per_restart_step': 1e3 * seconds[name] / num_restarts,
        'ratio': seconds[name] / seconds['self'],
        'ceiling_share': floor / seconds[name] / rate,
        **labels[name],
        'gflop_per_restart_step': floor / num_restarts / 1e9,
        'matmul_gflops': rate / 1e9,
        'seconds_compile': runner.seconds_compile,
        'blocks': len(blocks[name]),
        'load': load,
        'num_devices': len(devices),
        'device_kind': devices[0].device_kind,
        'version': runner.version,
        'jax': jax.__version__,
        'python': platform.python_version(),
    }


def _candidates(default, share):
  """The defaults first; on CPU a vmapped XLA convolution takes minutes."""
  yield default
  for lowering in ('matmul', 'lax'):
    for size in _RESTART_BATCHES:
      choices = default._replace(lowering=lowering, restart_batch=size)
      hopeless = (lowering == 'lax' and size > 1
                  and jax.default_backend() == 'cpu')
      if size <= share and choices != default and not hopeless:
        yield choices


def _parse(case):
  """'8x32x32:8' as ((8, 32, 32, 3), 8)."""
  try:
    shape, count = case.split(':')
    frames, height, width = (int(size) for size in shape.split('x'))
    return (frames, height, width, 3), int(count)
  except ValueError as error:
    raise UserError(f'--cases has {case!r}; it should look like 8x32x32:8, '
                    'frames x height x width : restarts.') from error


if __name__ == '__main__':
  launcher.run(main)
