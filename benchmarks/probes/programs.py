"""Seconds of compiling, cold and from the cache, and memory by restarts."""

import contextlib
import functools
import tempfile
import time
from collections.abc import Iterator

import jax
import numpy as np
import problem as problems

from probes import Probe, Size
from vidleak_jax.attacks.matching import restarts
from vidleak_jax.models import layers
from vidleak_jax.runtime import backend
from vidleak_jax.types import Guess


def plan(size: Size) -> Iterator[Probe]:
  """Yields the program of one restart, by lowering; by network; of many."""
  frames = size.case.split(':')[0]
  main = 'c3d', size.preset
  for lowering in ('matmul', 'lax'):
    yield _program(main, frames, 1, lowering)
  for count in size.counts[1:]:
    yield _program(main, frames, count, 'matmul')
  for name, preset, case in size.victims:
    yield _program((name, preset), case.split(':')[0], 1, 'matmul')
  for network in size.deep:
    for loop in (True, False):
      yield _program(network, frames, 1, 'matmul', loop)


def _program(network, frames, count, lowering, loop=True) -> Probe:
  """Of `count` restarts, all vmapped together."""
  label = {'name': 'program', 'victim': '/'.join(network), 'shape': frames,
           'restarts': count, 'lowering': lowering, 'equal_blocks':
           'a loop where there are many' if loop else 'one after another'}
  return Probe('programs', label, 90 if loop else 300, functools.partial(
      measure, network, f'{frames}:{count}', lowering, loop))


def measure(network: tuple[str, str], case: str, lowering: str,
            loop: bool = True) -> dict:
  """Returns seconds of tracing, compiling and loading, and bytes of memory.

  It is the step of an attack with a chunk's loop around it: the program that an
  attack waits for. The bytes are XLA's own account; the peak is the device's
  since the process began. `cpu_seconds` are those of all cores together: they
  hold on a machine that does other things too.

  Args:
    network: name and preset.
    case: frames x height x width : restarts.
    lowering: of convolutions.
    loop: whether many equal blocks are a loop. Without, a network is traced as
      it is written: transformers only, for convolutions become XLA's.
  """
  _, count = problems.parse(case)
  row = {}
  with tempfile.TemporaryDirectory() as folder, _cache(folder):
    for when in ('cold', 'cached'):
      jax.clear_caches()
      with contextlib.nullcontext() if loop else layers.plain_layers():
        row[f'seconds_trace_{when}'], _, lowered = _timed(
            lambda: _lower(network, case, lowering))
      row['hlo_lines'] = lowered.as_text().count('\n')
      (row[f'seconds_compile_{when}'], row[f'cpu_seconds_compile_{when}'],
       compiled) = _timed(lowered.compile)
  found = compiled.memory_analysis()
  stats = jax.devices()[0].memory_stats() or {}
  return row | {
      'bytes_arguments': found.argument_size_in_bytes,
      'bytes_temporary': found.temp_size_in_bytes,
      'bytes_temporary_per_restart': found.temp_size_in_bytes / count,
      'bytes_peak_of_process': stats.get('peak_bytes_in_use')}


def _lower(network, case, lowering):
  """The program of one device, not yet compiled."""
  clip_shape, count = problems.parse(case)
  choices = backend.choose(jax.devices()[0].platform, lowering=lowering)
  with backend.settings(choices):
    problem = problems.build(clip_shape, network, lowering)
    attack = problems.attack(problem)
    clips = np.zeros((1, 1, 1, *clip_shape), np.float32)
    tries = restarts.plan(
        Guess(clips, np.full((1, 1, 1), problem.label, np.int32)), count, count)
    trials = jax.tree.map(lambda leaf: leaf[None], restarts.Trials(
        problem.target, {}, jax.random.key_data(jax.random.key(0))))
    states = jax.eval_shape(
        restarts.starter(lambda _: attack), tries, trials)
    run = jax.jit(restarts.runner(lambda _: attack, count), donate_argnums=0)
    return run.lower(states, tries, trials, np.ones(count, np.int32))


def _timed(call):
  """(seconds, seconds of all cores, what it returns)."""
  began, cpu = time.perf_counter(), time.process_time()
  found = call()
  return time.perf_counter() - began, time.process_time() - cpu, found


@contextlib.contextmanager
def _cache(folder):
  """A compilation cache of its own, and the one of before afterwards."""
  from jax.experimental.compilation_cache import compilation_cache
  options = {'jax_compilation_cache_dir': folder,
             'jax_enable_compilation_cache': True,
             'jax_persistent_cache_min_compile_time_secs': 0.0,
             'jax_persistent_cache_min_entry_size_bytes': -1}
  before = {name: getattr(jax.config, name) for name in options}
  compilation_cache.reset_cache()
  for name, value in options.items():
    jax.config.update(name, value)
  try:
    yield
  finally:
    for name, value in before.items():
      jax.config.update(name, value)
    compilation_cache.reset_cache()
