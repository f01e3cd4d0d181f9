"""What goes wrong by a user's mistake, and how it is told."""

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any


class UserError(ValueError):
  """A user's mistake: shown as one message, without a traceback."""


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
    raise UserError(f'Unknown {what} {name!r}.{nearest(name, table)} Choose '
                    f'one of: {", ".join(sorted(table))}.')
  return table[name]


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
