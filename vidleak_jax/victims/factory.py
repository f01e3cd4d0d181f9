"""A user's own network, named by where its code is."""

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vidleak_jax.types import UserError, Victim
from vidleak_jax.victims import base


def from_factory(
    name: str, clip_shape: tuple[int, ...], num_classes: int
) -> Victim:
  """Returns the victim that a user's function makes.

  This runs the user's code, so the name must never come from a foreign leak.

  Args:
    name: `path/to/file.py:make` or `package.module:make`. The function returns
      a Flax module or a `Victim`; where it takes `clip_shape` or
      `num_classes`, it gets them.
    clip_shape: (T, H, W, C).
    num_classes: K.

  Raises:
    UserError: where there is no such file, module or function, or it returns
      something else.
  """
  make = load(name)
  wanted = {'clip_shape': tuple(clip_shape), 'num_classes': num_classes}
  taken = inspect.signature(make).parameters
  if not any(p.kind is p.VAR_KEYWORD for p in taken.values()):
    wanted = {k: v for k, v in wanted.items() if k in taken}
  made = make(**wanted)
  if isinstance(made, Victim):
    if made.clip_shape != tuple(clip_shape):
      raise UserError(f'{name} made a victim for clips {made.clip_shape}, but '
                      f'the run has {tuple(clip_shape)}. Set data.num_frames '
                      'and data.image_size to match.')
    return made
  return base.from_flax(made, clip_shape, num_classes)


def load(name: str) -> Callable[..., Any]:
  """Returns the function that `file.py:function` or `module:function` names."""
  place, colon, function = name.rpartition(':')
  is_named = place.endswith('.py') or all(
      part.isidentifier() for part in place.split('.'))
  if not colon or not function.isidentifier() or not is_named:
    raise UserError(f'victim.factory is {name!r}; it must be '
                    'path/to/file.py:make or package.module:make.')
  module = _from_file(Path(place)) if place.endswith('.py') else _from_package(
      place)
  if not callable(getattr(module, function, None)):
    raise UserError(f'{place} has no function {function!r}.')
  return getattr(module, function)


def _from_file(path):
  if not path.is_file():
    raise UserError(f'victim.factory names {path}, and there is no such file.')
  path = path.resolve()
  name = f'_victim_{path.stem}_{abs(hash(str(path)))}'
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


def _from_package(name):
  try:
    return importlib.import_module(name)
  except ModuleNotFoundError as error:
    if error.name and not name.startswith(error.name):
      raise  # the user's module itself misses something
    raise UserError(f'victim.factory names the module {name!r}, which is not '
                    'installed or not on the path.') from error
