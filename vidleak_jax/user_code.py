"""Code of the user's own, named by where it is.

It is run, so a name must come from the user, and never from a foreign leak.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vidleak_jax.errors import UserError


def load(name: str, field: str = 'victim.factory') -> Callable[..., Any]:
  """Returns the function that `file.py:function` or `module:function` names.

  Args:
    name: such as `path/to/file.py:make` or `package.module:make`.
    field: that holds the name, for messages.

  Raises:
    UserError: where there is no such file, module or function.
  """
  place, colon, function = name.rpartition(':')
  is_named = place.endswith('.py') or all(
      part.isidentifier() for part in place.split('.'))
  if not colon or not function.isidentifier() or not is_named:
    raise UserError(f'{field} is {name!r}; it must be path/to/file.py:make or '
                    'package.module:make.')
  module = (_from_file(Path(place), field) if place.endswith('.py')
            else _from_package(place, field))
  if not callable(getattr(module, function, None)):
    raise UserError(f'{place} has no function {function!r}.')
  return getattr(module, function)


def _from_file(path, field):
  if not path.is_file():
    raise UserError(f'{field} names {path}, and there is no such file.')
  path = path.resolve()
  name = f'_own_{path.stem}_{abs(hash(str(path)))}'
  if name not in sys.modules:
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
      spec.loader.exec_module(module)
    except BaseException:
      del sys.modules[name]
      raise
  return sys.modules[name]


def _from_package(name, field):
  try:
    return importlib.import_module(name)
  except ModuleNotFoundError as error:
    if error.name and not name.startswith(error.name):
      raise  # the user's module itself misses something
    raise UserError(f'{field} names the module {name!r}, which is not '
                    'installed or not on the path.') from error
