"""Times that can be compared, taken on a machine that does other things too."""

import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vidleak_jax.runtime import parallel


class Effort(NamedTuple):
  """How long to measure."""
  seconds: float  # of one block; one step at least
  blocks: int     # of each
  limit: float    # seconds of all, after which no new round begins


def interleave(
    runs: dict[str, Callable[[int], None]], effort: Effort
) -> dict[str, list[float]]:
  """Seconds of one step of each, in blocks taken in turns.

  What else the machine does then slows all, though threads that wait for each
  other by spinning (PyTorch's on CPU) suffer more: ratios need a quiet machine.

  Args:
    runs: name -> function that takes a number of steps and returns when done.
    effort: how long.
  """
  began = time.perf_counter()
  steps = {name: _calibrate(run, effort.seconds) for name, run in runs.items()}
  times = {name: [] for name in runs}
  for _ in range(effort.blocks):
    for name, run in runs.items():
      if steps[name] > 1:
        run(1)  # wakes its threads, while the last one's fall asleep
      times[name].append(_clock(run, steps[name]) / steps[name])
    if time.perf_counter() - began > effort.limit:
      break
  return times


def matmul(devices: list[jax.Device]) -> tuple[Callable[[int], None], float]:
  """Large float32 products on all devices: (run, FLOPs of a step)."""
  size = 1024 if devices[0].platform == 'cpu' else 8192
  ones = parallel.replicate(jnp.ones((size, size)), devices)
  product = parallel.on_devices(jnp.matmul, devices)

  def run(num_steps):
    x = ones
    for _ in range(num_steps):
      x = product(ones, ones)
    jax.block_until_ready(x)
  return run, 2.0 * size ** 3 * len(devices)


def _calibrate(run, seconds):
  run(1)  # warm-up
  return max(1, round(seconds / _clock(run, 1)))


def _clock(run, num_steps):
  began = time.perf_counter()
  run(num_steps)
  return time.perf_counter() - began
