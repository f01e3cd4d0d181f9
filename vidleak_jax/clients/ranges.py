"""Checks of a defence's strengths where they enter."""

import math
from numbers import Real

from vidleak_jax.types import Array, UserError

Strength = float | Array  # a Python number is checked, a traced one passes


def require(
    name: str, value: Strength, low: float = -math.inf,
    high: float = math.inf, *, above: bool = False, whole: bool = False,
) -> None:
  """Raises unless a strength that is a Python number is finite and in range.

  Args:
    name: of the option, for the message.
    value: a number; arrays and traced values are not looked at.
    low: the smallest value that is allowed, or with `above` the largest that
      is not.
    high: the largest value that is allowed.
    above: whether `low` itself is excluded.
    whole: whether only integers are allowed.

  Raises:
    UserError: says what came and what is allowed.
  """
  if not isinstance(value, Real):
    return
  fits = math.isfinite(value) and low <= value <= high
  fits = fits and not (above and value == low)
  if fits and not (whole and value != int(value)):
    return
  kind = 'a whole number' if whole else 'a finite number'
  bounds = [f'{"above" if above else "of at least"} {low:g}'
            ] * math.isfinite(low) + [f'at most {high:g}'] * math.isfinite(high)
  raise UserError(
      f'{name} is {value!r}. Give {kind} {" and ".join(bounds)}'.rstrip() + '.')
