"""The order of all rows: what matters most comes first."""

from collections.abc import Sequence

from probes import Probe, Size, machine, programs, recoveries, steps
from vidleak_jax.types import UserError


def rows(size: Size, only: Sequence[str] = ()) -> list[Probe]:
  """Returns the rows to come, by priority.

  Args:
    size: how large they are.
    only: names of those that are wanted; none: all.

  Raises:
    UserError: for a name that no row has.
  """
  recovered = list(recoveries.plan(size))
  compiled = list(programs.plan(size))
  every = [*machine.plan(size), *steps.plan(size), *compiled[:3],
           *recovered[:3], *compiled[3:], *recovered[3:],
           *steps.plan_victims(size)]
  names = sorted({probe.label['name'] for probe in every})
  if unknown := set(only) - set(names):
    raise UserError(f'--only has {", ".join(sorted(unknown))}; rows are named '
                    f'{", ".join(names)}.')
  return [probe._replace(seconds=probe.seconds / size.haste)
          for probe in every if not only or probe.label['name'] in only]
