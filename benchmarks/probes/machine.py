"""The device, and how fast it multiplies and copies."""

import importlib.metadata
import os
import platform
import statistics
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import timing
from jax import lax

from probes import Probe, Size
from vidleak_jax.runtime import backend

# name -> dtype of the operands, precision of the product
PRODUCTS = {
    'float32': (jnp.float32, 'highest'),
    'float32 by default (TF32 on a GPU)': (jnp.float32, 'default'),
    'float32 in bfloat16': (jnp.float32, 'BF16_BF16_F32'),
    'bfloat16': (jnp.bfloat16, 'default'),
}
_LIBRARIES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy',
              'scipy', 'torch')
_PRODUCTS_A_CALL = 8
_COPY_SHARE = 4  # a copy is so many times as large as a matrix


def plan(size: Size) -> Iterator[Probe]:
  """Yields what the machine is, then its rates."""
  yield Probe('machine', {'name': 'device'}, 0, device)
  for name in PRODUCTS:
    yield Probe('machine', {'name': 'product', 'kind': name}, 10,
                lambda name=name: product(name, size))
  yield Probe('machine', {'name': 'copy'}, 10, lambda: copy(size))
  yield Probe('machine', {'name': 'product', 'kind': 'float64'}, 20,
              lambda: product_float64(size))


def device() -> dict:
  """Returns what the machine is, and the versions that ran."""
  first = jax.devices()[0]
  stats = first.memory_stats() or {}
  versions = {}
  for name in _LIBRARIES:
    try:
      versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return {'device_kind': first.device_kind, 'platform': first.platform,
          'num_devices': jax.device_count(), 'cores': os.cpu_count(),
          'bytes_limit': stats.get('bytes_limit'),
          'choices': backend.choose(first.platform)._asdict(),
          'python': platform.python_version(), 'versions': versions,
          'xla_flags': os.environ.get('XLA_FLAGS', '')}


def product(name: str, size: Size) -> dict:
  """Returns FLOPs a second of products in a chain."""
  dtype, precision = PRODUCTS[name]
  return _product(size.rows, dtype, precision, size.seconds)


def product_float64(size: Size) -> dict:
  """Returns the same in float64, on the device that analytic attacks take."""
  with backend.float64() as device:
    return {'on': device.platform,
            **_product(size.rows // 2, jnp.float64, 'highest', size.seconds)}


def _product(rows, dtype, precision, seconds) -> dict:
  x = jnp.ones((rows, rows), dtype)

  @jax.jit
  def chain(x):
    def multiply(_, y):
      return jnp.matmul(x, y, precision=precision) / rows
    return lax.fori_loop(0, _PRODUCTS_A_CALL, multiply, x)

  taken = _seconds(lambda: chain(x), seconds)
  return {'rows': rows,
          'tflops': 2e-12 * rows ** 3 * _PRODUCTS_A_CALL / taken}


def copy(size: Size) -> dict:
  """Returns bytes a second, read and written, of an array that is scaled."""
  large = jnp.ones(_COPY_SHARE * size.rows ** 2)
  scale = jax.jit(lambda x: 1.5 * x)
  taken = _seconds(lambda: scale(large), size.seconds)
  return {'mbytes': large.nbytes / 1e6,
          'gbytes_a_second': 2e-9 * large.nbytes / taken}


def _seconds(call, seconds) -> float:
  """Of one call, the median of some blocks."""
  def run(count):
    for _ in range(count - 1):
      call()
    jax.block_until_ready(call())
  times = timing.interleave({'it': run}, timing.Effort(seconds, 3, 30))['it']
  return statistics.median(times)
