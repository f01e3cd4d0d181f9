"""What depends on the machine: cores, float64, options of JAX."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidleak_jax.attacks.analytic import per_message
from vidleak_jax.runtime import backend, host, parallel


def _files(root, files):
  for name, text in files.items():
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


@pytest.mark.parametrize('files, count', [
    ({}, 6),
    ({'proc/self/cgroup': '0::/job\n',
      'sys/fs/cgroup/job/cpu.max': '150000 100000\n'}, 2),
    ({'proc/self/cgroup': '0::/\n',
      'sys/fs/cgroup/cpu.max': 'max 100000\n'}, 6),
    ({'proc/self/cgroup': '2:cpu:/a/b\n',
      'sys/fs/cgroup/cpu/a/cpu.cfs_quota_us': '50000\n',
      'sys/fs/cgroup/cpu/a/cpu.cfs_period_us': '100000\n'}, 1),
    ({'proc/self/cgroup': '2:cpu:/a\n',
      'sys/fs/cgroup/cpu/a/cpu.cfs_quota_us': '-1\n',
      'sys/fs/cgroup/cpu/a/cpu.cfs_period_us': '100000\n'}, 6)])
def test_cores_of_affinity_and_quota(tmp_path, monkeypatch, files, count):
  monkeypatch.setattr(os, 'sched_getaffinity', lambda _: {9, 1, 2, 3, 4, 5})
  _files(tmp_path, files)
  assert host.available_cores(tmp_path) == [1, 2, 3, 4, 5, 9][:count]


def test_settings_end_with_their_scope():
  before = jax.config.jax_default_matmul_precision
  other = backend.choose('cpu', precision='bfloat16')
  with backend.settings(other):
    assert jax.config.jax_default_matmul_precision == 'bfloat16'
  assert jax.config.jax_default_matmul_precision == before


def test_float64_ends_with_its_scope():
  with backend.float64() as device:
    assert jnp.ones(2).dtype == np.float64
    assert device.platform == 'cpu'
  assert jnp.ones(2).dtype == np.float32


def test_where_float64_is_not_native_the_cpu_solves(monkeypatch):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
  with backend.float64() as device:
    assert device == jax.local_devices(backend='cpu')[0]
    assert jax.config.jax_default_device == device
    assert jnp.ones(2).devices() == {device}
  assert jax.config.jax_default_device is None
  found = per_message.over_messages(
      lambda scale, row: scale * row.sum(), np.float64(2), np.ones((3, 4)))
  np.testing.assert_array_equal(found, [8, 8, 8])
  assert found.dtype == np.float64


@pytest.mark.parametrize('size', [0, 1, 2**30, 2**31, 5 * 2**31 + 17])
def test_sizes_beyond_2_gib_pass(size):
  code = parallel._size_code(size)
  assert code.dtype == np.int32 and code.shape == (2,)
  assert parallel._size_of(code) == size


def test_devices_out_of_order_are_refused():
  """Parts of several processes would come back permuted."""
  devices = parallel.pick_devices(2)
  assert devices == sorted(devices, key=lambda d: (d.process_index, d.id))
  with pytest.raises(ValueError, match='ordered by'):
    parallel.spread(np.ones(2), devices[::-1])
