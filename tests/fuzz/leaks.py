"""Spoilt copies of one small leak; each must load or be refused by name.

By hand, for longer: `python -m tests.fuzz.leaks --seconds=600 --seed=7`.
"""

import argparse
import collections
import json
import resource
import signal
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_dtypes
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

import vidleak_jax as vl
from vidleak_jax.errors import UserError
from vidleak_jax.experiments import leaking
from vidleak_jax.leaks import storage
from vidleak_jax.runtime import backend

CLIP_SHAPE = (4, 16, 16, 3)
NUM_CLASSES = 7
# Of a mutation of files that another one has spoilt.
SPOILT = (AttributeError, KeyError, IndexError, RecursionError, TypeError,
          ValueError, SafetensorError, struct.error)
SECONDS = 30.0       # the longest that one leak may take, on a busy machine
BYTES = 1 << 30      # the most that all of them may add to the memory


class Files(NamedTuple):
  """A leak as it lies on disk."""
  arrays: bytes  # leak.safetensors
  facts: bytes   # leak.json


Mutation = Callable[[np.random.Generator, Files], Files]

_NONSENSE: tuple[Any, ...] = (
    None, True, '', 'x', '../../etc/passwd', 'c3', -1, 0, 1.5, 1e30, 1e308,
    2**63, -2**63, [], [[]], [None], {}, {'a': {'b': [{}]}}, [1e30] * 4,
    [-1] * 4, [2**20] * 4, [0, 0, 0, 0], [4, 16, 16], [4, 16, 16, 4],
    [2**20, 16, 16, 3], 'é\u0000\ud800', 'a' * 10_000, 101, 2**31)
# What somebody may well write by mistake, or on purpose.
_PLAUSIBLE: tuple[tuple[str, Any], ...] = (
    ('format_version', 3), ('format_version', 1), ('format_version', '2'),
    ('victim', 'c3d'), ('victim', None), ('victim', {}),
    ('victim.name', 'c4d'), ('victim.name', 'lenet'), ('victim.name', 'vivit'),
    ('victim.name', 'frozen'), ('victim.name', 'timesformer'),
    ('victim.name', 'videomae'), ('victim.name', 'cnn_gru'),
    ('victim.name', 'r3d18'),
    ('victim.preset', 'enormous'), ('victim.preset', 'full'),
    ('victim.preset', 'tiny_pooled'), ('victim.preset', 3),
    ('victim.factory', '/tmp/evil.py:make'), ('victim.factory', 'os:system'),
    ('victim.weights_file', '/etc/passwd'), ('victim.head', 'mlp'),
    ('victim.checkpoint', '/etc/passwd'), ('victim.extractor_seed', 3),
    ('victim.num_classes', 1), ('victim.num_classes', 6),
    ('victim.num_classes', 2**40), ('victim.num_classes', 10**14),
    ('victim.num_classes', 7.0), ('victim.norm', 'batch'),
    ('victim.activation', 'swish'), ('victim.inputs', 'imagenet'),
    ('clip_shape', [4, 16, 16, 3, 3]), ('clip_shape', [4, 16, 16, 4]),
    ('clip_shape', [2**20, 2**20, 2**20, 3]), ('clip_shape', [1, 1, 1, 1]),
    ('clip_shape', [4, 2**20, 16, 3]), ('clip_shape', [4, 1000, 1000, 3]),
    ('clip_shape', '4x16x16x3'), ('clip_shape', [4, 16, 16, -3]),
    ('batch_size', 0), ('batch_size', 2), ('batch_size', 2**20),
    ('num_frames', 5), ('num_frames', 3), ('num_frames', 0),
    ('num_frames', 2**20), ('federated', None), ('federated', []),
    ('federated.algorithm', 'fedprox'), ('federated.local_steps', 10**14),
    ('federated.local_learning_rate', 0), ('federated.message', 'all'),
    ('defense', None), ('defense', 3), ('defense.clip_norm', -1),
    ('defense.quantize_bits', 33), ('defense.prune_fraction', 1),
    ('eight_bit', 'yes'), ('weights', None), ('frozen', 'an extractor'),
    ('num_reference_frames', 3), ('num_reference_frames', -3),
    ('unknown', {'x': 1}), ('defence', {}))


def original() -> Files:
  """Returns the leak that is spoilt: two clips of a tiny c3d."""
  victim = vl.victims.c3d(CLIP_SHAPE, NUM_CLASSES, preset='tiny')
  clips = jax.random.uniform(jax.random.key(0), (2, *CLIP_SHAPE))
  leak = vl.observe(victim, victim.init(jax.random.key(1)), clips, [5, 2])
  references = np.full((2, 1, 16, 16, 3), 0.5, np.float32)
  leak = leak.replace(labels=np.array([[5], [2]], np.int32),
                      references=references)
  with tempfile.TemporaryDirectory() as folder:
    path = leak.save(folder)
    return Files(path.read_bytes(), path.with_suffix('.json').read_bytes())


def _flip(rng, files, limit=None):
  spoilt = bytearray(files.arrays)
  for _ in range(rng.integers(1, 5)):
    at = int(rng.integers(limit or len(spoilt)))
    spoilt[at] ^= 1 << int(rng.integers(8))
  return files._replace(arrays=bytes(spoilt))


def _flip_header(rng, files):
  return _flip(rng, files, 8 + _header_size(files))


def _flip_facts(rng, files):
  spoilt = bytearray(files.facts)
  for _ in range(rng.integers(1, 4)):
    spoilt[int(rng.integers(len(spoilt)))] = int(rng.integers(256))
  return files._replace(facts=bytes(spoilt))


def _truncate(rng, files):
  size = int(rng.choice([0, 1, 7, 8, 9, int(rng.integers(len(files.arrays)))]))
  return files._replace(arrays=files.arrays[:size])


def _truncate_facts(rng, files):
  return files._replace(facts=files.facts[:int(rng.integers(len(files.facts)))])


def _huge_header(rng, files):
  size = int(rng.choice(np.array(
      [2**63 - 1, 2**40, 10**8 + 1, len(files.arrays), 0, 1], np.uint64)))
  return files._replace(arrays=struct.pack('<Q', size) + files.arrays[8:])


def _header(rng, files):
  """Another shape, type or place of an array than its bytes have."""
  size = _header_size(files)
  header = json.loads(files.arrays[8:8 + size])
  name = str(rng.choice([key for key in header if key != '__metadata__']))
  field, value = [
      ('shape', [2**40, 2**40]), ('shape', [-1]), ('shape', []),
      ('shape', [0]), ('shape', 'wide'), ('shape', [2**62, 4]),
      ('dtype', 'F8_E4M3'), ('dtype', 'F8_E5M2'), ('dtype', 'F4'),
      ('dtype', 'C64'), ('dtype', 'BF16'), ('dtype', 'U64'), ('dtype', 'X'),
      ('data_offsets', [0, 2**63]), ('data_offsets', [8, 0]),
      ('data_offsets', [0, 0])][rng.integers(16)]
  header[name][field] = value
  text = json.dumps(header).encode()
  return files._replace(arrays=struct.pack('<Q', len(text)) + text
                        + files.arrays[8 + size:])


def _shape(rng, files):
  arrays, name = _arrays(rng, files)
  old = arrays[name]
  arrays[name] = [
      old.reshape(-1), old[None], old[..., None], old[:1], old[:0],
      old.swapaxes(0, -1), np.concatenate([old, old]),
      np.zeros((), old.dtype)][rng.integers(8)]
  return _with(files, arrays)


def _all_shapes(rng, files):
  """All updates at once: none, one, three, or as the parameters."""
  arrays = dict(load(files.arrays))
  count = int(rng.integers(4))
  for name, value in arrays.items():
    if name.startswith('update/'):
      arrays[name] = (value[0] if count == 0 and rng.integers(2)
                      else np.concatenate([value, value])[:count])
  return _with(files, arrays)


def _dtype(rng, files):
  arrays, name = _arrays(rng, files)
  kind = [ml_dtypes.bfloat16, np.complex64, np.int8, np.bool_, np.float64,
          np.float16, np.uint64, np.int64, np.uint8][rng.integers(9)]
  arrays[name] = arrays[name].astype(kind)
  return _with(files, arrays)


def _all_dtypes(rng, files):
  kind = [ml_dtypes.bfloat16, np.float16, np.float64, np.int8,
          np.bool_][rng.integers(5)]
  return _with(files, {name: value.astype(kind)
                       for name, value in load(files.arrays).items()})


def _key(rng, files):
  arrays, name = _arrays(rng, files)
  other = str(rng.choice([
      'params', 'update', 'params/', 'update//', 'params/conv0',
      'params/conv0/kernel/deeper', 'weights', 'params/é', '', '/', 'labels',
      'references', 'update/conv0/kernel', 'params/batch_stats/mean']))
  action = rng.integers(3)
  if action != 1:
    arrays[other] = arrays[name]
  if action != 2:
    del arrays[name]
  return _with(files, arrays)


def _no_group(rng, files):
  group = str(rng.choice(['params', 'update', 'labels', 'references', '']))
  return _with(files, {name: value for name, value
                       in load(files.arrays).items()
                       if not name.startswith(group)})


def _not_finite(rng, files):
  arrays, name = _arrays(rng, files)
  if arrays[name].dtype.kind == 'f':
    value = arrays[name].astype([np.float32, np.float64][rng.integers(2)])
    value.ravel()[rng.integers(value.size)] = [
        np.nan, np.inf, -np.inf, 3.4e38][rng.integers(4)]
    arrays[name] = value
  return _with(files, arrays)


def _labels(rng, files):
  labels = [
      np.array([[7], [2]], np.int32), np.array([[-1], [2]], np.int32),
      np.array([[2**40], [2]], np.int64), np.array([5, 2], np.int32),
      np.array([[2**31], [2**32]], np.uint64), np.zeros((2, 7), np.float32),
      np.zeros((3, 1), np.int32), np.zeros((0,), np.int32),
      np.zeros((2, 1), np.bool_), np.array([[5.5], [2]], np.float32),
  ][rng.integers(10)]
  return _with(files, dict(load(files.arrays)) | {'labels': labels})


def _references(rng, files):
  references = [
      np.zeros((16, 16, 3)), np.zeros((2, 0, 16, 16, 3)),
      np.zeros((5, 1, 16, 16, 3)), np.zeros((2, 1, 16, 16, 1)),
      np.zeros((2, 1, 16, 8, 3)), np.full((2, 1, 16, 16, 3), np.nan),
      np.full((2, 1, 16, 16, 3), 255), np.full((2, 1, 16, 16, 3), -1e30),
      np.zeros((0, 1, 16, 16, 3)), np.zeros((2, 1, 16, 16, 3), np.complex64),
      np.zeros((2, 1, 16, 16, 3), np.bool_),
      np.zeros((2, 1, 1, 1, 3))][rng.integers(12)]
  if references.dtype == np.float64:
    references = references.astype(np.float32)
  return _with(files, dict(load(files.arrays)) | {'references': references})


def _field(rng, files):
  """Nonsense in any field of leak.json, however deep."""
  facts = json.loads(files.facts)
  places = list(_places(facts))
  node, name = places[rng.integers(len(places))]
  if rng.integers(5) == 0:
    del node[name]
  else:
    node[name] = _NONSENSE[rng.integers(len(_NONSENSE))]
  return files._replace(facts=json.dumps(facts).encode())


def _no_json(rng, files):
  text = [
      b'', b'\xff\xfe\x00', '{"clip_shape"}'.encode('utf-16'), b'null', b'3',
      b'[' + files.facts + b']', b'[' * 100_000, b'{"a":' * 100_000,
      files.facts.replace(b'16', b'NaN'), files.facts.replace(b'16', b'1e999'),
      files.facts.replace(b'16', b'9' * 5000),
      files.facts.replace(b'16', b'[' * 900 + b']' * 900), b'"' + b'a' * 100,
      b'\x00' * 100][rng.integers(14)]
  return files._replace(facts=text)


def _said(name: str, value: Any) -> Mutation:
  """A mutation that sets one field of leak.json, by its dotted name."""
  def mutate(rng, files):
    del rng
    facts = json.loads(files.facts)
    node = facts
    *groups, last = name.split('.')
    for group in groups:
      node = node[group]
    node[last] = value
    return files._replace(facts=json.dumps(facts).encode())
  return mutate


def _held(**arrays: np.ndarray) -> Mutation:
  """A mutation that puts these arrays in the place of others."""
  def mutate(rng, files):
    del rng
    return _with(files, dict(load(files.arrays)) | arrays)
  return mutate


MUTATIONS: dict[str, Mutation] = {
    mutate.__name__[1:]: mutate for mutate in (
        _flip, _flip_header, _flip_facts, _truncate, _truncate_facts,
        _huge_header, _header, _shape, _all_shapes, _dtype, _all_dtypes, _key,
        _no_group, _not_finite, _labels, _references, _field, _no_json)}
SAID: dict[str, Mutation] = {
    f'{name}={value!r}': _said(name, value) for name, value in _PLAUSIBLE}
# What loads, but what no attack could make sense of: with the field to name.
REFUSED: dict[str, tuple[Mutation, str]] = {
    'num_frames': (_said('num_frames', 3), 'num_frames'),
    'local_steps': (_said('federated.local_steps', 10**14), 'local_steps'),
    'num_reference_frames': (_said('num_reference_frames', 3),
                             'num_reference_frames'),
} | {
    f'labels_{i}': (_held(labels=np.array(value)), 'labels')
    for i, value in enumerate((
        [[7], [2]], [[-1], [2]], [[2**40], [2]], [[5.0], [2.0]], [5, 2, 1]))
} | {
    f'references_{i}': (_held(references=value), 'references')
    for i, value in enumerate((
        np.zeros((16, 16, 3)), np.zeros((5, 1, 16, 16, 3)),
        np.zeros((2, 1, 16, 16, 1)), np.zeros((2, 1, 16, 8, 3)),
        np.full((2, 1, 16, 16, 3), np.nan), np.full((2, 1, 16, 16, 3), 255),
        np.full((2, 1, 16, 16, 3), -0.5)))
} | {
    f'params_{kind.__name__}': (
        _held(**{'params/head/bias': np.zeros(7, kind)}), 'params/head/bias')
    for kind in (np.int8, np.bool_, np.complex64, np.uint64)}


def enter(path: Path) -> None:
  """Takes a leak in as an audit does, up to its first computation."""
  leak = vl.load_leak(path)
  door = leaking.Door(path)
  victim = leaking.victim_of(
      leaking.Audit(), leak, backend.choose('cpu'), door)
  storage.check(leak, jax.eval_shape(victim.init, jax.random.key(0)))


def refusal(files: Files, folder: Path) -> str:
  """Returns why a leak is refused, '' where it is taken in.

  Raises:
    Exception: anything but a UserError, which is what is looked for.
  """
  path = folder / 'leak.safetensors'
  path.write_bytes(files.arrays)
  path.with_suffix('.json').write_bytes(files.facts)
  try:
    with within(SECONDS):
      enter(path)
  except UserError as error:
    said = str(error)
    assert 0 < len(said) < 5000, said[:200]
    return said
  return ''


@contextmanager
def within(seconds: float) -> Iterator[None]:
  """Scope that raises TimeoutError when it takes longer."""
  def stop(signum, frame):
    raise TimeoutError(f'It took more than {seconds} s.')
  before = signal.signal(signal.SIGALRM, stop)
  signal.setitimer(signal.ITIMER_REAL, seconds)
  try:
    yield
  finally:
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def peak_bytes() -> int:
  """Returns the most memory that this process has held."""
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _header_size(files):
  return struct.unpack('<Q', files.arrays[:8])[0]


def _arrays(rng, files):
  """All arrays, and the name of one of them."""
  arrays = dict(load(files.arrays))
  return arrays, str(rng.choice(sorted(arrays)))


def _with(files, arrays):
  return files._replace(arrays=save(
      {name: np.ascontiguousarray(value) for name, value in arrays.items()}))


def _places(node):
  """Yields (object, field) of all fields of nested objects."""
  for name, value in node.items():
    yield node, name
    if isinstance(value, dict):
      yield from _places(value)


def main() -> None:
  """Spoils leaks for some time; ends at one that is taken in wrongly."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--seconds', type=float, default=60.0)
  parser.add_argument('--seed', type=int, default=0)
  args = parser.parse_args()
  rng = np.random.default_rng(args.seed)
  base, table = original(), MUTATIONS | SAID
  counts: collections.Counter[str] = collections.Counter()
  end = time.monotonic() + args.seconds
  with tempfile.TemporaryDirectory() as folder:
    while time.monotonic() < end:
      chosen = [str(name) for name in rng.choice(sorted(table),
                                                 rng.integers(1, 3))]
      files, before, began = base, peak_bytes(), time.monotonic()
      try:
        for name in chosen:
          files = table[name](rng, files)
      except SPOILT:  # the second mutation needs what the first has spoilt
        continue
      try:
        said = refusal(files, Path(folder))
      except Exception as error:
        error.add_note(f'{chosen}: {files.facts[:300]!r}')
        raise
      grown, spent = peak_bytes() - before, time.monotonic() - began
      counts['refused' if said else 'taken'] += 1
      if grown > BYTES // 4 or spent > 5:
        print(f'{chosen}: {spent:.1f} s, {grown >> 20} MiB more\n'
              f'{files.facts[:300]!r}', flush=True)
  print(dict(counts), f'{peak_bytes() >> 20} MiB at most')


if __name__ == '__main__':
  main()
