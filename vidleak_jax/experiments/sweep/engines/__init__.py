"""Where groups run. An engine owns its workers; all else is the launcher's."""

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from vidleak_jax.experiments.sweep.groups import Group

NAMES = ('local', 'ray', 'slurm')


class Finished(NamedTuple):
  """What became of a group."""
  group: Group
  disk_full: str = ''  # what could not be written: the sweep has to stop
  lost: str = ''       # why the engine gave it up: it did not run to its end


class Engine(Protocol):
  """Workers that take groups; a context manager, which ends them."""

  workers: int  # how many groups run at once

  def submit(self, groups: Sequence[Group]) -> None:
    """Hands over groups to run, in this order."""

  def poll(self, seconds: float) -> list[Finished]:
    """Waits about that long for a group to finish; those that have."""

  def __enter__(self) -> 'Engine': ...

  def __exit__(self, *error) -> None: ...


def maker(name: str, **options: Any) -> Callable[[Path, str], Engine]:
  """Makes the engine `name` from a workdir and a launcher's token.

  Its libraries are imported only then.
  """
  def make(folder, token):
    module = import_module(f'{__name__}.{name}')
    return getattr(module, name.title())(folder, token, **options)
  return make
