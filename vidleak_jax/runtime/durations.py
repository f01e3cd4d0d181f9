"""Spans of time as people write them: 90, 90s, 10m, 1.5h."""

import math
import re

from vidleak_jax.errors import UserError
from vidleak_jax.errors import shown as shown_value

_UNITS = {'': 1, 's': 1, 'm': 60, 'h': 3600, 'd': 86400}


def parse(value: float | str, name: str) -> float:
  """Returns the seconds of a number, or of a text such as '10m'.

  Args:
    value: seconds, or a number with s, m, h or d behind it.
    name: of the option, for the message.

  Raises:
    UserError: for anything else, or what is not above 0.

  >>> parse('10m', 'budget')
  600.0
  """
  found = re.fullmatch(r'\s*([0-9]*\.?[0-9]+)\s*([smhd]?)\s*', str(value))
  seconds = float(found[1]) * _UNITS[found[2]] if found else 0.0
  if not (seconds > 0 and math.isfinite(seconds)):
    raise UserError(f'{name} is {shown_value(value)}; it must be a time above '
                    '0: seconds, or a number with s, m, h or d behind it, such '
                    'as 90s, 10m or 1.5h.')
  return seconds


def shown(seconds: float) -> str:
  """Returns a span of time in two units at most.

  >>> shown(3725), shown(62.4), shown(0.25)
  ('1h 2m', '1m 2s', '0.2s')
  """
  if seconds < 10 and seconds != int(seconds):
    return f'{seconds:.1f}s'
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f'{hours}h {minutes}m'
  return f'{minutes}m {seconds}s' if minutes else f'{seconds}s'
