"""The main branch of a residual block, from its output down to its input."""

import dataclasses
from collections.abc import Sequence

from vidleak_jax.attacks.analytic.peeling import equations, inputs
from vidleak_jax.attacks.analytic.peeling.blocks import Block
from vidleak_jax.attacks.analytic.peeling.readers import Known, Reader
from vidleak_jax.attacks.analytic.peeling.signs import Active
from vidleak_jax.attacks.analytic.peeling.units import Leaves, Unit
from vidleak_jax.types import UserError


@dataclasses.dataclass(frozen=True)
class Row:
  """One layer's input as it was solved, for the report."""
  layer: str
  unknowns: int      # positions of the input; the same for every channel
  equations: int     # of the kernels, for one channel
  rank: int
  condition: float
  residual: float
  steps: int         # of conjugate gradients on known outputs
  toggled: int       # ReLUs that the bias's gradient settled
  doubtful: int      # channels whose ReLUs it contradicts


def peel(block: Block, out: Known, count: int, leaves: Leaves, update: Leaves
         ) -> tuple[Known, Known | None, Known, list[Row]]:
  """Solves for the inputs of the last `count` units of a main branch.

  Returns:
    (the block's output with its ReLUs repaired, the last unit's input or None,
    the lowest input, rows of the report).
  """
  known, inner, rows = out, None, []  # `known`: the ReLU behind `above`
  uppers = block.main[:0:-1][:count]
  for unit, above in zip(block.main[-2::-1], uppers):
    sums = unit.sums(update)
    reader = Reader(above, known, known is not out)
    (reader, *_), solved, slope = inputs.solve([reader], sums, leaves, update)
    out = out if inner else reader.known
    known, found = inputs.settled(solved, slope, sums)
    rows.append(row_of(above.name, [above], solved, found))
    inner = inner or known
  return out, inner, known, rows


def row_of(name: str, units: Sequence[Unit], solved: equations.Solved,
           found: Active) -> Row:
  """Returns what is reported of an input that was solved.

  Raises:
    UserError: the equations disagree.
  """
  check(name, solved.residual)
  return Row(
      name, units[0].geometry.num_in, sum(u.num_rows for u in units),
      solved.rank, solved.condition, solved.residual, solved.steps,
      found.num_toggled, found.num_doubtful)


def check(name: str, residual: float) -> None:
  """Raises a UserError where a layer's equations disagree by too much."""
  if not residual < inputs.WRONG:
    raise UserError(
        f'The equations of {name} disagree by {residual:.0e}: the update has '
        'noise, passed a defence, or is of another network. Choose '
        'attack.name=ig.')
