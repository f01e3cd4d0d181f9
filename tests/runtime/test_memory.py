"""Estimates of memory, against what XLA says, and what is refused."""

import jax
import jax.numpy as jnp
import pytest

from vidleak_jax.runtime import memory
from vidleak_jax.types import UserError

NEEDS = memory.Needs(state=10, working=100, shared=1000)


def test_the_total_counts_states_working_memory_and_what_is_shared():
  one = memory.total(NEEDS, 8, 1, 1)
  assert one == memory.Total(1000 + 8 * 20 + 100, 8 * 40 + 1000)
  together = memory.total(NEEDS, 8, 2, 64)
  assert together.device == 1000 + 4 * 20 + 4 * 100


@pytest.mark.parametrize('free, fits', [(3600, 10), (2300, 1)])
def test_a_refusal_says_how_many_fit(monkeypatch, free, fits):
  """One row: 1000 + 20 + 100 on the device, 40 + 1000 on the host."""
  monkeypatch.setattr(memory, 'host_free', lambda: free)
  options = {'rows_of': lambda n: n, 'devices': jax.devices()[:1],
             'batch_size': 64}
  with pytest.raises(UserError) as error:
    memory.check(NEEDS, num_restarts=50, **options)
  message = str(error.value)
  assert f'About {fits} would fit: set attack.num_restarts={fits}' in message
  assert 'num_restarts=50 needs about' in message and 'GiB are free' in message
  memory.check(NEEDS, num_restarts=fits, **options)
  with pytest.raises(UserError):
    memory.check(NEEDS, num_restarts=fits + 1, **options)


def test_not_even_one_fits(monkeypatch):
  monkeypatch.setattr(memory, 'host_free', lambda: 100)
  with pytest.raises(UserError, match='Not even one fits'):
    memory.check(NEEDS, num_restarts=1, rows_of=lambda n: n,
                 devices=jax.devices()[:1], batch_size=1)


def test_an_accelerators_own_memory_counts(monkeypatch):
  class Device:
    platform, process_index, device_kind = 'gpu', 0, 'Some GPU'

    def memory_stats(self):
      return {'bytes_limit': 2000, 'bytes_in_use': 500}
  monkeypatch.setattr(memory, 'host_free', lambda: 2**40)
  with pytest.raises(UserError, match=r'Some GPU.*About 4 would fit'):
    memory.check(NEEDS, num_restarts=5, rows_of=lambda n: n,
                 devices=[Device()], batch_size=64)


def test_working_memory_is_near_what_xla_says():
  """Matrices of 1 MiB: the chain holds two or three of them at once."""
  def chain(x):
    for _ in range(5):
      x = jnp.sin(x @ x)
    return x.sum()
  size = jax.ShapeDtypeStruct((512, 512), jnp.float32)
  estimate = memory.working_bytes(chain, size)
  xla = jax.jit(chain).lower(size).compile().memory_analysis()
  assert xla.temp_size_in_bytes / 3 <= estimate <= 3 * xla.temp_size_in_bytes
  gradient = memory.working_bytes(jax.grad(chain), size)
  assert gradient > 2 * estimate  # it keeps what was on the way


def test_loops_and_calls_are_looked_into():
  def loop(x):
    return jax.lax.fori_loop(
        0, 3, lambda _, y: jax.jit(lambda z: jnp.outer(z, z).sum(0))(y), x)
  assert memory.working_bytes(
      loop, jax.ShapeDtypeStruct((1000,), jnp.float32)) >= 4 * 10**6



@pytest.mark.parametrize('group, files, free', [
    ('0::/job\n', {'sys/fs/cgroup/job/memory.max': '5000\n',
                   'sys/fs/cgroup/job/memory.current': '3000\n',
                   'sys/fs/cgroup/job/memory.stat': 'inactive_file 500\n'},
     2500),
    ('0::/job\n', {'sys/fs/cgroup/job/memory.max': 'max\n'}, 1024000),
    ('4:memory:/a/b\n', {
        'sys/fs/cgroup/memory/a/memory.limit_in_bytes': '9000\n',
        'sys/fs/cgroup/memory/a/memory.usage_in_bytes': '1000\n'}, 8000),
    ('4:memory:/a\n', {
        'sys/fs/cgroup/memory/a/memory.limit_in_bytes': f'{2**63 - 4096}\n'},
     1024000)])
def test_what_is_free_of_machine_and_cgroup(tmp_path, group, files, free):
  files = {'proc/meminfo': 'MemTotal: 9 kB\nMemAvailable: 1000 kB\n',
           'proc/self/cgroup': group, **files}
  for name, text in files.items():
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(text)
  assert memory.host_free(tmp_path) == free
