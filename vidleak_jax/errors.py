"""What goes wrong by a user's mistake, and how it is told."""

import difflib
import reprlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

_SHORT = reprlib.Repr()  # of what a file or a person may have made huge
_SHORT.maxstring = _SHORT.maxother = 200
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = 20
_SHORT.maxlong = 60


class UserError(ValueError):
  """A user's mistake: shown as one message, without a traceback."""


class OutOfTime(UserError):
  """The time that a session may take is over; raised between two chunks."""


def pick(table: Mapping[str, Any], name: str, what: str) -> Any:
  """Returns `table[name]`.

  Args:
    table: what can be chosen, by name.
    name: the choice.
    what: the field that holds the choice, for the message.

  Raises:
    UserError: naming the nearest choice and all others.
  """
  if name not in table:
    raise UserError(
        f'Unknown {what} {shown(name)}.{nearest(name, table)} Choose one of: '
        f'{", ".join(sorted(table))}.')
  return table[name]


def shown(value: object) -> str:
  """Returns a value as messages show it, long or deeply nested ones cut."""
  return _SHORT.repr(value)


def nearest(name: object, allowed: Iterable[str]) -> str:
  """Returns ' Did you mean ...?', or '' where nothing is near."""
  near = difflib.get_close_matches(str(name), list(allowed), 1)
  return f' Did you mean {near[0]!r}?' if near else ''


def attempt(fn: Callable[..., Any], *args: Any) -> Any:
  """Returns `fn(*args)`, or the UserError that it raised."""
  try:
    return fn(*args)
  except UserError as error:
    return error
