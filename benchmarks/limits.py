"""How far a step is from the machine's limits.

  python benchmarks/limits.py [--quick]

Two times that a step would take: its products (those of seven forward passes)
at the measured rate of large products, and the bytes that XLA counts in the
compiled step at the measured bandwidth of the memory. XLA counts the operands
of every fusion, cached or not: where that time is longer than the step itself,
they came from the caches. One device, one restart.
"""

import json
import statistics

import jax
import jax.numpy as jnp
import numpy as np
import problem as problems
import timing
from absl import flags
from jax import lax

from vidleak_jax.cli import launcher
from vidleak_jax.runtime import backend, parallel
from vidleak_jax.types import Guess, Target

_QUICK = flags.DEFINE_bool('quick', False, 'The smallest case only.')
_CASES = (('strided', '8x32x32'), ('strided', '16x64x64'),
          ('wide', '8x32x32'), ('wide', '16x64x64'))
_QUICK_EFFORT = timing.Effort(seconds=0.1, blocks=3, limit=20)
_FULL_EFFORT = timing.Effort(seconds=0.5, blocks=7, limit=120)


def main() -> None:
  devices = parallel.pick_devices(1)
  choices = backend.choose(devices[0].platform)
  backend.apply(choices)
  effort = _QUICK_EFFORT if _QUICK.value else _FULL_EFFORT
  for preset, shape in _CASES[:1] if _QUICK.value else _CASES:
    clip_shape, _ = problems.parse(f'{shape}:1')
    problem = problems.build(clip_shape, ('c3d', preset), choices.lowering)
    print(json.dumps(measure(problem, devices, effort)), flush=True)


def measure(problem, devices, effort) -> dict:
  """One row."""
  run, bytes_moved = _step(problem)
  product, product_flops = timing.matmul(devices)
  scale, scaled_bytes = _scaling()
  blocks = timing.interleave(
      {'step': run, 'product': product, 'scale': scale}, effort)
  seconds = {name: statistics.median(own) for name, own in blocks.items()}
  flops = problems.flops(problem)
  ms_products = 1e3 * flops * seconds['product'] / product_flops
  return {'name': 'limits', 'victim': '/'.join(problem.network),
          'shape': list(problem.clip.shape), 'ms_step': 1e3 * seconds['step'],
          'gflop': flops / 1e9, 'mbyte': bytes_moved / 1e6,
          'gflops_measured': product_flops / seconds['product'] / 1e9,
          'gbytes_measured': scaled_bytes / seconds['scale'] / 1e9,
          'ms_products': ms_products,
          'ms_bytes': 1e3 * bytes_moved * seconds['scale'] / scaled_bytes,
          'share': ms_products / seconds['step'] / 1e3}


def _step(problem):
  """(a function that takes steps, bytes of one)."""
  attack = problems.attack(problem)
  target = Target(problem.params, problem.update)
  clips = np.zeros((1, *problem.clip.shape), np.float32)
  state = attack.init(
      jax.random.key(0), Guess(clips, np.full(1, problem.label, np.int32)))
  one = jax.jit(attack.update).lower(state, target).compile().cost_analysis()
  steps = jax.jit(lambda state, count: lax.fori_loop(
      0, count, lambda _, state: attack.update(state, target)[0], state))

  def run(count):
    jax.block_until_ready(steps(state, count))
  return run, one['bytes accessed']


def _scaling():
  """(a function that reads and writes a large array, bytes of one time)."""
  large = jnp.ones(2 ** 26)
  scale = jax.jit(lambda x: 2.0 * x)

  def run(count):
    for _ in range(count):
      scale(large).block_until_ready()
  return run, 2 * large.nbytes


if __name__ == '__main__':
  launcher.run(main)
