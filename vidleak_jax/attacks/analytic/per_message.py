"""Runs one small problem per message on all that the backend offers."""

import operator
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from vidleak_jax.runtime import backend, host
from vidleak_jax.runtime import programs as programs_lib

_ACCELERATOR_BATCH = 64  # messages side by side on a GPU or TPU


def over_messages(
    step: Callable, constants: Any, messages: Any, *,
    key: Hashable | None = None,
    programs: programs_lib.ProgramCache | None = None,
) -> Any:
  """`step(constants, message)` for every message, in float64.

  On CPU each core takes a share of the messages, one at a time: the problems
  are too small to be worth a core each operation, and side by side all would
  wait for the slowest. On a GPU they run side by side; of platforms without
  native float64 the CPU takes them.

  Args:
    step: from (constants, one message) to a pytree of arrays.
    constants: pytree, the same for all messages.
    messages: pytree, leaves [M, ...].
    key: all that `step` depends on besides its arguments, compared by value:
      steps of equal keys share the program of their shapes. None: the function
      `step` stands for it.
    programs: where programs are kept; None: the runtime's cache.

  Returns:
    NumPy leaves [M, ...].
  """
  count = len(jax.tree.leaves(messages)[0])
  with backend.float64() as device:
    on_cpu = device.platform == 'cpu'
  if on_cpu:  # also where they lie on an accelerator without float64
    constants, messages = jax.device_get((constants, messages))
  workers = min(count, len(host.available_cores())) if on_cpu else 1
  size = -(-count // workers)
  # The last share reaches back, so that all have one shape and compile once.
  starts = [min(i * size, count - size) for i in range(workers)]
  shares = [jax.tree.map(operator.itemgetter(slice(s, s + size)), messages)
            for s in starts]
  batch = None if on_cpu else _ACCELERATOR_BATCH
  cache = programs_lib.default() if programs is None else programs
  compiled = cache.get(
      ('per message', step if key is None else key, batch, device,
       _signature((constants, shares[0]))),
      lambda: _compile(step, batch, constants, shares[0]))

  def work(share):
    with backend.float64():  # the switch belongs to a thread
      return jax.device_get(compiled(constants, share))

  with ThreadPoolExecutor(workers) as pool:
    parts = list(pool.map(work, shares))
  new = [i * size - s for i, s in enumerate(starts)]
  return jax.tree.map(
      lambda *leaves: np.concatenate([a[n:] for a, n in zip(leaves, new)]),
      *parts)


def _compile(step, batch, constants, share):
  with backend.float64():
    run = jax.jit(lambda constants, share: jax.lax.map(
        lambda message: step(constants, message), share, batch_size=batch))
    return run.lower(constants, share).compile()


def _signature(tree) -> Hashable:
  """What a compiled program asks of its arguments."""
  leaves, structure = jax.tree.flatten(tree)
  return structure, tuple(
      (np.shape(leaf), str(jax.dtypes.canonicalize_dtype(
          np.result_type(leaf)))) for leaf in leaves)
