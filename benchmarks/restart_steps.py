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
from collections.abc import Iterator

import jax
import ours
import peers
import problem as problems
import timing
from absl import flags

from vidleak_jax.cli import launcher
from vidleak_jax.runtime import backend, parallel

_QUICK = flags.DEFINE_bool('quick', False, 'Two sizes, short blocks: minutes.')
_PEERS = flags.DEFINE_list(
    'peers', [], 'Of breaching, torch, torch_compile: the extra [peers].')
_CASES = flags.DEFINE_list(
    'cases', None, 'Frames x height x width : restarts, as 8x32x32:8,...')
_SWEEP = flags.DEFINE_bool(
    'sweep_choices', False, 'Rows by lowering and restart batch instead.')
_DEVICES = flags.DEFINE_integer('num_devices', 0, 'Of this machine; 0: all.')
_VICTIM = flags.DEFINE_string(
    'victim', 'c3d', 'Peers know c3d, lenet, r2plus1d18 and vivit.')
_PRESET = flags.DEFINE_string(
    'preset', None,
    'Of the victim; None: strided of c3d, paper of lenet, small of others.')

_QUICK_CASES = ['8x32x32:8', '16x64x64:4']
_FULL_CASES = [
    '8x32x32:1', '8x32x32:8', '8x32x32:64', '8x32x32:256',
    '16x64x64:1', '16x64x64:4', '16x64x64:16', '16x112x112:2']
_LENET_CASES = ['1x32x32:8', '1x32x32:64']  # single frames
_PRESETS = {'c3d': 'strided', 'lenet': 'paper'}  # small of others
_RESTART_BATCHES = (1, 2, 4, 8, 64)
_QUICK_EFFORT = timing.Effort(seconds=0.5, blocks=5, limit=60)
_FULL_EFFORT = timing.Effort(seconds=1, blocks=7, limit=300)


def main() -> None:
  cases = _QUICK_CASES if _QUICK.value else _FULL_CASES
  if _VICTIM.value == 'lenet':
    cases = _LENET_CASES
  cases = [problems.parse(case) for case in _CASES.value or cases]
  preset = _PRESET.value or _PRESETS.get(_VICTIM.value, 'small')
  effort = _QUICK_EFFORT if _QUICK.value else _FULL_EFFORT
  devices = parallel.pick_devices(_DEVICES.value)
  backend.apply(backend.choose(devices[0].platform))
  jax.config.update('jax_enable_compilation_cache', False)  # is timed, too
  for case in cases:
    own = devices[:case[1]]  # as an attack does: no device without a restart
    case = *case, (_VICTIM.value, preset), own, effort
    for row in sweep(*case) if _SWEEP.value else compare(*case, _PEERS.value):
      print(json.dumps(row), flush=True)


def compare(
    clip_shape: tuple[int, ...], num_restarts: int, network: tuple[str, str],
    devices: list[jax.Device], effort: timing.Effort, names: list[str],
) -> Iterator[dict]:
  """Our row, then one for each peer."""
  choices = backend.choose(devices[0].platform)
  problem = problems.build(clip_shape, network, choices.lowering)
  runners = {'self': ours.build(problem, num_restarts, choices, devices)}
  for name in names:
    runners[name] = peers.build(name, problem, num_restarts)
  gaps = {name: problems.gap(runner.gradient, runners['self'].gradient)
          for name, runner in runners.items()}
  gaps['self'] = problems.gap(runners['self'].gradient,
                              problems.plain_gradient(problem))
  labels = {name: {'peer': name, 'gradient_gap': gaps[name],
                   **(choices._asdict() if name == 'self' else {})}
            for name in runners}
  yield from _rows(problem, num_restarts, devices, runners, labels,
                   effort)


def sweep(
    clip_shape: tuple[int, ...], num_restarts: int, network: tuple[str, str],
    devices: list[jax.Device], effort: timing.Effort,
) -> Iterator[dict]:
  """A row for each lowering and restart batch; the defaults come first."""
  default = backend.choose(devices[0].platform)
  share = num_restarts // len(devices)
  runners, labels = {}, {}
  for choices in _candidates(default, share):
    problem = problems.build(clip_shape, network, choices.lowering)
    key = 'self' if choices == default else str(choices)
    runners[key] = ours.build(problem, num_restarts, choices, devices)
    gap = problems.gap(runners[key].gradient, runners['self'].gradient)
    labels[key] = {'peer': 'self', **choices._asdict(), 'gradient_gap': gap}
  yield from _rows(problem, num_restarts, devices, runners, labels,
                   effort)


def _rows(problem, num_restarts, devices, runners, labels, effort):
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
        'victim': '/'.join((*problem.network, problem.activation)),
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


if __name__ == '__main__':
  launcher.run(main)
