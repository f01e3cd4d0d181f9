"""What others do with the same work: each peer is a file, imported on demand.

A peer is made from a `problem.Problem` and a number of restarts.
"""

import contextlib
import importlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from vidleak_jax.types import UserError, pick

# name -> file
_FILES = {
    'torch': 'torch_eager',
    'torch_compile': 'torch_compiled',
    'torch_vmap': 'torch_vmap',
    'breaching': 'breaching_attack',
}


class Runner(NamedTuple):
  """Something whose attack step can be timed and checked."""
  run: Callable[[int], None]  # steps of every restart; returns when done
  gradient: np.ndarray  # [T, H, W, C] of the objective at the problem's guess
  seconds_compile: float | None  # None where nothing is compiled
  version: str


def build(name: str, problem, restarts: int) -> Runner:
  """The peer called `name`, at work on a problem.

  Raises:
    UserError: for an unknown name, a peer that is not installed, and a victim
      that it has no network for.
  """
  with _installed(name):  # networks come from further libraries
    return load(name).build(problem, restarts)


def load(name: str):
  """The file of the peer called `name`.

  Raises:
    UserError: for an unknown name, or a peer that is not installed.
  """
  file = pick(_FILES, name, 'peer')
  with _installed(name):
    return importlib.import_module(f'peers.{file}')


@contextlib.contextmanager
def _installed(name):
  """Says what to install where an import fails."""
  try:
    yield
  except ImportError as error:
    raise UserError(
        f'The peer {name} is not installed ({error}). Install the extra '
        "[peers]: pip install -e '.[peers]', or leave it out of --peers."
    ) from error
