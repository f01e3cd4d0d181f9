"""What depends on the backend, chosen here and nowhere else.

CPU: separable im2col beats XLA's own 3-D convolution by 18 times in a
second-order step, and restarts one after another beat one big vmap by 3 times
(`benchmarks/restart_steps.py`). GPU and TPU: taken from what their matrix units
want, not measured yet. Every choice can be overridden by `config.backend`.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vidleak_jax.runtime import host


class Choices(NamedTuple):
  """What differs from backend to backend."""
  lowering: str       # a name of victims.layers.LOWERINGS
  restart_batch: int  # tries vmapped together on one device
  precision: str      # of float32 matrix products


_PRECISION = 'highest'
_DEFAULTS = {
    'cpu': Choices('matmul', 1, _PRECISION),
    'gpu': Choices('matmul', 64, _PRECISION),
    'tpu': Choices('matmul', 64, _PRECISION),
}
_FLOAT64_PLATFORMS = ('cpu', 'gpu')  # the others emulate it, or do without


def choose(
    platform: str, *, lowering: str | None = None,
    restart_batch: int | None = None, precision: str | None = None,
) -> Choices:
  """The backend's defaults with the given ones in their place."""
  default = _DEFAULTS.get(platform, _DEFAULTS['gpu'])
  given = {'lowering': lowering, 'restart_batch': restart_batch,
           'precision': precision}
  return default._replace(**{k: v for k, v in given.items() if v is not None})


def one_device_per_core() -> None:
  """Lets each CPU core that this process has be a device.

  Call it before JAX is first used.

  Restarts side by side, a core each, take half the time of restarts one after
  another on both. `XLA_FLAGS` may say another number.
  """
  if 'xla_force_host_platform_device_count' not in os.environ.get(
      'XLA_FLAGS', ''):
    jax.config.update('jax_num_cpu_devices', len(host.available_cores()))


@contextmanager
def settings(choices: Choices) -> Iterator[None]:
  """Scope in which this thread's programs use a backend's choices.

  Nothing of the process's JAX options is changed. Programs that were compiled
  outside with another precision are compiled anew.
  """
  with jax.default_matmul_precision(choices.precision):
    yield


@contextmanager
def float64() -> Iterator[jax.Device]:
  """Scope in which this thread computes in float64.

  Yields:
    The device of computations that name none: the default one, or a CPU device
    where the default platform (TPU, say) has no native float64.
  """
  with ExitStack() as stack:
    stack.enter_context(jax.enable_x64(True))
    if jax.default_backend() not in _FLOAT64_PLATFORMS:
      stack.enter_context(
          jax.default_device(jax.local_devices(backend='cpu')[0]))
    device, = jnp.zeros(()).devices()
    yield device


def apply(choices: Choices | None = None) -> None:
  """Sets JAX's options for the whole process: for command lines only.

  They are the precision of float32 matrix products and a persistent compilation
  cache in the user's cache folder, unless JAX was told another one.

  Args:
    choices: of the backend; None: what all backends have in common, so that no
      backend has to be started to know it.
  """
  precision = _PRECISION if choices is None else choices.precision
  jax.config.update('jax_default_matmul_precision', precision)
  if jax.config.jax_compilation_cache_dir is None:
    root = Path(os.environ.get('XDG_CACHE_HOME', Path.home() / '.cache'))
    cache = root / 'vidleak_jax' / 'jax'
    jax.config.update('jax_compilation_cache_dir', str(cache))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)
