"""One layer's input, from the units that read it.

Equations of kernels' gradients and of known outputs, with the ReLUs behind them
repaired on the way, and the moments of norms where these depend on the data.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vidleak_jax.attacks.analytic.peeling import constants, equations, joint
from vidleak_jax.attacks.analytic.peeling import readers as readers_lib
from vidleak_jax.attacks.analytic.peeling.readers import Known, Reader
from vidleak_jax.attacks.analytic.peeling.signs import (
    Active,
    active,
    repaired,
)
from vidleak_jax.attacks.analytic.peeling.units import Leaves

WRONG = 1e-3       # residual of equations that do not hold
_REPAIRS = 3       # rounds in which ReLUs may change
_FINE = 2e-6       # residual of right equations of a float32 gradient
_ROUNDS = 40       # of least squares, at most
_SHRINKS = 0.5     # of the residual,
_PATIENCE = 3      # in so many rounds
_ILL = 300.0       # condition with which rounds go astray
_STILL = 1e-7      # relative change of a round that is the last
_CLEAR_ROUNDS = 3  # from what kernels show clearly to a first guess
_SAME = 1e-3       # change of the input's multiple that does not matter
_TRIMS = 4         # of channels that do not agree with the others
_FEW = 8           # channels that are certain are too few alone
_OUTLYING = 5.0    # of the median disagreement
_RELATIVE_ZERO = 1e-5  # of the largest input


def solve(readers: list[Reader], sums: np.ndarray | None, leaves: Leaves,
          update: Leaves, beside: np.ndarray | float = 0.0
          ) -> tuple[list[Reader], equations.Solved, np.ndarray]:
  """Returns an input from the units that read it.

  The equations are linear once the moments of the readers' norms are known, and
  these depend on the input: a fixed point, whose errors shrink by the root of
  the numbers that share their moments in each round. Kernels' gradients are the
  same for all multiples of the input; the sums of the norm below tell which.

  Where kernels show some directions badly they do not shrink; then the input is
  solved for together with its moments.

  The input shows in turn which cotangents a kernel's gradient was made of.

  Args:
    readers: the first one's ReLUs are repaired.
    sums: [Cin] dL/dz of the unit below, over the positions, if known.
    leaves: the parameters by path.
    update: the gradient by path.
    beside: [Pin, Cin] dL/d of the input past the readers.

  Returns:
    (the readers repaired, the input, dL/d of it).

  Raises:
    equations.Undetermined: the equations do not suffice, or are too badly
      conditioned for the rounds to converge.
  """
  states = first = [readers_lib.first_moments(reader, leaves)
                    for reader in readers]
  if states[0] is not None and sums is None:
    raise equations.Undetermined(
        f'no sums tell the scale of what {readers[0].unit.name} reads')
  scaling = _Scaling(readers_lib.hidden_from(readers), sums, beside)
  way = _in_rounds
  for repair in range(_REPAIRS):
    try:
      solved, slope, states = way(readers, states, leaves, update, scaling)
    except _Disagreement:
      way = _jointly
      solved, slope, states = way(readers, first, leaves, update, scaling)
    if solved.residual < _FINE or repair == _REPAIRS - 1:
      break
    on = _repaired(readers[0], states[0], solved.x, leaves, update)
    if (on == readers[0].known.on).all():
      break
    readers = [readers[0]._replace(known=readers[0].known._replace(on=on)),
               *readers[1:]]
  return readers, solved, slope + beside


class _Disagreement(equations.Undetermined):
  """Rounds of least squares and moments do not converge."""


class _Scaling(NamedTuple):
  """What tells the multiple of an input, and the constants in it."""
  groups: list[np.ndarray]    # of inputs whose constant is hidden
  sums: np.ndarray | None     # [Cin] dL/dz of the unit below, over positions
  beside: np.ndarray | float  # [Pin, Cin] dL/d of the input past the readers

  def apply(self, solved: equations.Solved, slope: np.ndarray
            ) -> tuple[equations.Solved, float]:
    """Returns (the input as it is, what it was divided by)."""
    x, certain = constants.at_zero(solved.x, solved.sigma, self.groups)
    on = x > _RELATIVE_ZERO * x.max()
    share = _multiple(
        slope * on, self.sums - (self.beside * on).sum(0), certain)
    return solved._replace(x=x / share, sigma=solved.sigma / share), share


def _in_rounds(readers, states, leaves, update, scaling):
  """(the input, dL/d of it through the readers, moments), in turns."""
  last, residuals = 0.0, []
  for _ in range(_ROUNDS):
    solved, slope = _solve_once(
        readers, states, leaves, update, scaling.groups)
    residuals.append(solved.residual)
    if states[0] is not None and solved.condition > _ILL:
      raise _Disagreement(
          f'moments of {readers[0].unit.name} matter too much for rounds')
    if WRONG < solved.residual > _SHRINKS * min(residuals[:-_PATIENCE],
                                                 default=np.inf):
      raise _Disagreement(
          f'least squares and moments of {readers[0].unit.name} do not agree')
    if states[0] is None:  # the same for all readers
      break
    solved, share = scaling.apply(solved, slope)
    slope, states = slope * share, readers_lib.moments(
        readers, solved.x, leaves)
    change, last = np.abs(solved.x - last).max(), solved.x
    if change <= _STILL * solved.x.max():
      break
  return solved, slope, states


def _jointly(readers, states, leaves, update, scaling):
  """The same at once, from what kernels show clearly."""
  if not all(states):
    raise equations.Undetermined(
        f'not all norms beside {readers[0].unit.name} are of the data')
  held = constants.directions(
      scaling.groups, readers[0].unit.geometry.num_in)
  for _ in range(_CLEAR_ROUNDS):
    sources = [readers_lib.source(reader, state, leaves, update)
               for reader, state in zip(readers, states)]
    shown = equations.shown(sources)
    x = shown.basis @ shown.value
    sigma = np.full(x.shape, shown.residual * np.sqrt(np.mean(x ** 2)))
    solved, _ = scaling.apply(
        equations.Solved(x, sigma, shown.basis.shape[1], shown.condition,
                         shown.residual, 0),
        readers_lib.slope_of(readers, sources, leaves))
    states = readers_lib.moments(readers, solved.x, leaves)
  for _ in range(_REPAIRS):
    seen = [joint.Seen(reader.unit, each, reader.known.cotangent,
                       readers_lib.first_moments(reader, leaves).whitened,
                       reader.known.certain & reader.forward)
            for reader, each in zip(readers, sources)]
    x, ridge, steps = joint.solve(seen, solved.x, held, leaves, update)
    states = readers_lib.moments(readers, x, leaves)
    sources = [readers_lib.source(reader, state, leaves, update)
               for reader, state in zip(readers, states)]
    slope = readers_lib.slope_of(readers, sources, leaves)
    solved, share = scaling.apply(
        equations.judged(x, sources, held, ridge, steps), slope)
    slope, states = slope * share, readers_lib.moments(
        readers, solved.x, leaves)
    if abs(share - 1) < _SAME:  # else the norms' epsilon counts for another
      break
  if not solved.residual < WRONG:
    raise equations.Undetermined(
        f'kernels and moments of {readers[0].unit.name} do not agree')
  return solved, slope, states


def _repaired(reader, state, x, leaves, update):
  """Which ReLUs are on, from the cotangents that an input shows."""
  unit, known = reader.unit, reader.known
  shown = equations.cotangents(
      readers_lib.source(reader, state, leaves, update), x)
  if known.past is not None:
    shown = shown - unit.cotangent(leaves, known.past)
  scale = unit.affine(leaves)[0] if unit.is_affine else unit.gamma(leaves)
  return repaired(known.on, known.slope * scale, unit.shown_slope(
      leaves, update, shown, state))


def _solve_once(readers, states, leaves, update, groups):
  """(the input, dL/d of it through the readers) at these moments."""
  sources = [readers_lib.source(reader, state, leaves, update)
             for reader, state in zip(readers, states)]
  outputs = [readers_lib.active_outputs(reader, state, leaves)
             for reader, state in zip(readers, states) if reader.forward]
  solved = equations.solve(sources, outputs, held=constants.directions(
      groups, readers[0].unit.geometry.num_in))
  return solved, readers_lib.slope_of(readers, sources, leaves)


def _multiple(slope: np.ndarray, sums: np.ndarray, certain: np.ndarray
              ) -> float:
  """What dL/dx must be multiplied with to have these sums [C].

  A ReLU that is taken for on, or off, by mistake spoils its channel alone;
  channels that are certain are preferred.
  """
  if certain.sum() < _FEW:
    certain = np.ones(len(sums), bool)
  shown, agreeing = slope.sum(0), certain
  for _ in range(_TRIMS):
    share = shown[agreeing] @ sums[agreeing] / (shown[agreeing] ** 2).sum()
    rest = np.abs(sums - share * shown)
    agreeing = certain & (rest <= _OUTLYING * np.median(rest[certain]))
  return float(share)


def settled(solved: equations.Solved, slope: np.ndarray,
            sums: np.ndarray | None, groups: Sequence[np.ndarray] = ()
            ) -> tuple[Known, Active]:
  """Returns what is known of an input once its ReLUs are settled.

  Args:
    solved: the input.
    slope: [P, C] dL/d of it.
    sums: [C] of the ReLUs' norm, if known.
    groups: of inputs whose constant is hidden, the lowest taken for zero.
  """
  found = active(solved.x, solved.sigma, slope, sums, solved.residual)
  value = np.where(found.on, np.maximum(solved.x, 0.0), 0.0)
  seen = None
  if groups:
    seen = found.on & ~constants.open_values(found.on, groups)
  return Known(value, solved.sigma, slope, found.on, seen=seen), found
