"""What `accelerator.py` measures: each probe gives one row of one group.

A probe is planned before anything is measured, so that the plan has an order
and a row that fails has a name.
"""

import gc
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

_LONGEST = 1500  # characters of an error that are kept: files stay small


class Probe(NamedTuple):
  """One row to come."""
  group: str               # the file that it goes to
  label: dict[str, Any]    # what is measured; first in the row
  seconds: float           # that it may take: it is not begun with less left
  measure: Callable[[], dict[str, Any]]


class Size(NamedTuple):
  """How large everything is."""
  case: str            # frames x height x width : restarts, the main one
  large: str           # the same with more pixels and fewer restarts
  batches: tuple[int, ...]  # restarts vmapped together
  counts: tuple[int, ...]   # restarts, for memory
  preset: str          # of C3D
  victims: tuple[tuple[str, str, str], ...]  # name, preset, case
  steps: int           # of an attack
  seconds: float       # of a timed block
  rows: int            # of large matrices
  clip: tuple[int, int, int, int]  # of the attacks
  deep: tuple[tuple[str, str], ...] = ()  # networks of many equal blocks
  haste: float = 1.0   # rows may take so many times less than they say


FULL = Size(
    '8x32x32:256', '16x64x64:64', (1, 16, 64, 256), (1, 16, 64, 256, 1024),
    'strided', (('r2plus1d18', 'small', '8x32x32:16'),
                ('vivit', 'small', '8x32x32:16'),
                ('timesformer', 'small', '8x32x32:16'),
                ('videomae', 'small', '8x32x32:16'),
                ('r3d18', 'small', '8x32x32:16')),
    300, 0.5, 8192, (8, 32, 32, 3),
    deep=(('timesformer', 'full'), ('videomae', 'full')))
TINY = Size(
    '2x8x8:4', '2x16x16:2', (1, 2, 4), (1, 4), 'tiny',
    (('r2plus1d18', 'tiny', '4x16x16:2'), ('vivit', 'tiny', '2x16x16:2')),
    20, 0.02, 256, (2, 16, 16, 3), haste=10.0)


def run(
    probes: Sequence[Probe], deadline: float, first: int = 0
) -> Iterator[tuple[int, Probe, dict[str, Any] | None]]:
  """Yields (number, probe, None) before and (number, probe, row) after each.

  What fails gives a row with its error, and the next one is taken. What would
  not end in time is skipped; cheaper ones behind it still have their turn.

  Args:
    probes: by priority.
    deadline: of `time.monotonic()`.
    first: the number to begin with.
  """
  for number in range(first, len(probes)):
    probe = probes[number]
    left = deadline - time.monotonic()
    if left < probe.seconds:
      yield number, probe, {'skipped': f'{left:.0f} s left, may take '
                            f'{probe.seconds:.0f}'}
      continue
    yield number, probe, None
    began = time.perf_counter()
    try:
      row = probe.measure()
    except Exception as error:  # any: the other rows must still come
      row = failure(error)
    row['seconds'] = time.perf_counter() - began
    yield number, probe, row
    gc.collect()  # the next row needs the memory


def failure(error: Exception) -> dict[str, str]:
  """Returns a row that says what went wrong, and where."""
  frames = traceback.extract_tb(error.__traceback__)[-3:]
  where = ' < '.join(f'{frame.name}:{frame.lineno}' for frame in frames[::-1])
  return {'error': f'{type(error).__name__}: {error}'[:_LONGEST],
          'where': where[:_LONGEST]}
