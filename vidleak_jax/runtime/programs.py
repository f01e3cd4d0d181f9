"""Compiled programs, kept for attacks of the same shape.

A program is found again by a key of plain values that its owner gives, so that
equal attacks share one compile and different ones never do.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TypeVar

_KEPT = 64  # an analytic attack has one for each layer

Program = TypeVar('Program')


class ProgramCache:
  """A bounded table of programs; the one used longest ago leaves first.

  ```python
  programs = ProgramCache()
  step = programs.get(('ig', 64), lambda: jax.jit(build_step(64)))
  ```

  Args:
    size: how many programs are kept, at least 1.

  Raises:
    ValueError: for a size below 1.
  """

  def __init__(self, size: int = _KEPT):
    if size < 1:
      raise ValueError(f'A program cache needs size >= 1, got {size}.')
    self._size = size
    self._programs = OrderedDict()
    self._lock = threading.RLock()

  def get(self, key: Hashable, build: Callable[[], Program]) -> Program:
    """Returns the program of `key`; `build()` makes it the first time.

    Args:
      key: everything that the program depends on, compared by value.
      build: makes the program. What it raises is passed on, nothing is kept.
    """
    with self._lock:
      if key not in self._programs:
        self._programs[key] = build()
        while len(self._programs) > self._size:
          self._programs.popitem(last=False)
      self._programs.move_to_end(key)
      return self._programs[key]

  def clear(self) -> None:
    """Forgets all programs, and with them what they hold in memory."""
    with self._lock:
      self._programs.clear()

  def __len__(self) -> int:
    return len(self._programs)

  def __contains__(self, key: Hashable) -> bool:
    return key in self._programs


_DEFAULT = ProgramCache()


def default() -> ProgramCache:
  """Returns the cache that the process shares where a caller brings none."""
  return _DEFAULT
