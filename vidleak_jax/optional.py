"""Parts of the installation that not every user needs.

What a plain `pip install vidleak_jax` leaves out is imported where it is used:

  >>> load('json').dumps(1)
  '1'
"""

import importlib
import sys
from importlib import metadata, util
from types import ModuleType

from vidleak_jax.errors import UserError

# extra of setup.py -> what it brings: module -> its name in a registry
EXTRAS = {
    'video': {'av': 'av'},
    'photos': {'skimage': 'scikit-image'},
    'sweep': {'pyarrow': 'pyarrow'},
    'tensorboard': {'tensorboardX': 'tensorboardX'},
    'ray': {'ray': 'ray'},
    'slurm': {'submitit': 'submitit'},
    'optuna': {'optuna': 'optuna'},
    'torch': {'torch': 'torch'},
}


def load(module: str) -> ModuleType:
  """Returns a module, imported now.

  Args:
    module: dotted, of the standard library, a requirement or an extra.

  Raises:
    UserError: naming the extra that brings it, where it is missing.
  """
  try:
    return importlib.import_module(module)
  except ModuleNotFoundError as error:
    if (error.name or '').partition('.')[0] != module.partition('.')[0]:
      raise  # it is there, and misses something itself
    raise UserError(missing(module)) from error


def missing(module: str) -> str:
  """Returns what to tell a user who lacks a module."""
  top = module.partition('.')[0]
  extra, name = next((extra, brings[top]) for extra, brings in EXTRAS.items()
                     if top in brings)
  return (f'{name} is not installed. Get it by pip install '
          f'"vidleak_jax[{extra}]".')


def require(*extras: str) -> None:
  """Checks, without importing anything, that extras are installed.

  Raises:
    UserError: naming the first one that is missing.
  """
  for extra in extras:
    for module in EXTRAS[extra]:
      if not _is_there(module):
        raise UserError(missing(module))


def installed(extra: str) -> dict[str, str | None]:
  """Returns name -> version of what an extra brings; None: not installed."""
  found = {}
  for module, name in EXTRAS[extra].items():
    found[name] = metadata.version(name) if _is_there(module) else None
  return found


def _is_there(module) -> bool:
  if module in sys.modules:
    return sys.modules[module] is not None
  return util.find_spec(module) is not None
