"""What depends on the backend, chosen here and nowhere else.

CPU: separable im2col beats XLA's own 3-D convolution by 18 times in a
second-order step, and restarts one after another beat one big vmap by 3 times
(`benchmarks/restart_steps.py`). GPU and TPU: taken from what their matrix units
want, not measured yet. Every choice can be overridden by `config.backend`.
"""

import os
from pathlib import Path
from typing import NamedTuple

import jax


class Choices(NamedTuple):
  """Of one backend."""
  lowering: str       # a name of victims.layers.LOWERINGS
  restart_batch: int  # tries vmapped together on one device
  precision: str      # of float32 matrix products


_DEFAULTS = {
    'cpu': Choices('matmul', 1, 'highest'),
    'gpu': Choices('matmul', 64, 'highest'),
    'tpu': Choices('matmul', 64, 'highest'),
}


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
  """Lets each CPU core be a device; call it before JAX is first used.

  Restarts side by side, a core each, take half the time of restarts one after
  another on both. `XLA_FLAGS` may say another number.
  """
  if 'xla_force_host_platform_device_count' not in os.environ.get(
      'XLA_FLAGS', ''):
    jax.config.update('jax_num_cpu_devices', os.cpu_count())


def apply(choices: Choices) -> None:
  """Sets JAX's global options, the persistent compilation cache included."""
  jax.config.update('jax_default_matmul_precision', choices.precision)
  if jax.config.jax_compilation_cache_dir is None:
    root = Path(os.environ.get('XDG_CACHE_HOME', Path.home() / '.cache'))
    cache = root / 'vidleak_jax' / 'jax'
    jax.config.update('jax_compilation_cache_dir', str(cache))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)
