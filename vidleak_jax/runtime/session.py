"""Where an attack works: devices, files, and who hears how far it has come."""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import jax

from vidleak_jax.errors import OutOfTime
from vidleak_jax.runtime import backend, durations, parallel


class Report(Protocol):
  """Hears of long work; called between chunks, never from a device."""

  def __call__(self, stage: str, done: int, total: int, **values) -> None:
    """`done` of `total` steps of a stage are done; values are worth showing."""


@dataclasses.dataclass(frozen=True)
class Session:
  """What an attack may use of this machine.

  Attributes:
    devices: that share its restarts.
    choices: of the backend.
    folder: gets checkpoints and logs, so that it can be resumed; None: in
      memory, nothing is written.
    tensorboard: whether events are written to the folder too.
    report: hears of progress; None: nobody does.
    deadline: of `time.monotonic()`, after which the work ends; None: never.
  """
  devices: tuple[jax.Device, ...]
  choices: backend.Choices
  folder: Path | None = None
  tensorboard: bool = False
  report: Report | None = None
  deadline: float | None = None

  def inside(self, name: str) -> 'Session':
    """Returns the same session with a folder inside its folder."""
    return dataclasses.replace(self, folder=self.folder and self.folder / name)

  def on(self, devices: Sequence[jax.Device]) -> 'Session':
    """Returns the same session on some of its devices."""
    return dataclasses.replace(self, devices=tuple(devices))

  def named(self, name: str) -> 'Session':
    """Returns the same session whose stages bear a name, and the time left."""
    report = self.report
    if report is None:
      return self

    def told(stage: str, done: int, total: int, **values) -> None:
      if self.deadline is not None:
        values['budget_left'] = durations.shown(self.seconds_left())
      report(f'{name}: {stage}', done, total, **values)
    return dataclasses.replace(self, report=told)

  def until(self, seconds: float) -> 'Session':
    """Returns the same session that ends in so many seconds."""
    return dataclasses.replace(self, deadline=time.monotonic() + seconds)

  def seconds_left(self) -> float:
    """Returns how long the work may take; infinite without a deadline."""
    if self.deadline is None:
      return float('inf')
    return max(self.deadline - time.monotonic(), 0.0)

  def tell(self, stage: str, done: int, total: int, **values) -> None:
    """Reports, where somebody listens.

    Raises:
      OutOfTime: after the deadline, unless all is done.
    """
    if not self.go_on(stage, done, total, **values):
      raise OutOfTime(f'the time was over in {stage}, {done} of {total}')

  def go_on(self, stage: str, done: int, total: int, **values) -> bool:
    """Reports as `tell`, and returns whether time is left, or all is done."""
    if self.report:
      self.report(stage, done, total, **values)
    return done >= total or self.seconds_left() > 0


def session(
    devices: Sequence[jax.Device] | None = None, *, lowering: str | None = None,
    restart_batch: int | None = None, precision: str | None = None,
    **options: Any,
) -> Session:
  """Returns a session with what was measured as best for its backend.

  Args:
    devices: None: all.
    lowering: of convolutions.
    restart_batch: restarts vmapped together on a device.
    precision: of float32 matrix products.
    **options: of `Session`.
  """
  devices = tuple(devices or parallel.pick_devices())
  choices = backend.choose(devices[0].platform, lowering=lowering,
                           restart_batch=restart_batch, precision=precision)
  return Session(devices, choices, **options)
