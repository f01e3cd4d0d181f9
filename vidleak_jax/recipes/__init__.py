"""Recipes: `default` holds every field, the others override some of them.

Each recipe is a module with `get_config`, found by its name from any folder:

  >>> 'paper/lenet_dlg' in names()
  True
  >>> load('clip_c3d:tiny').data.num_frames
  4
"""

import dataclasses
import difflib
import importlib
import importlib.util
import inspect
import pkgutil
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from vidleak_jax.errors import UserError
from vidleak_jax.options import Options


def names() -> tuple[str, ...]:
  """Returns the names of all shipped recipes, such as `sweeps/tiny`."""
  return tuple(sorted(_walk(__path__, '')))


def load(source: str) -> ConfigDict:
  """Returns the config of a shipped recipe or of a file.

  Args:
    source: `NAME`, the name of a shipped recipe, or `FILE.py`, a file with a
      function `get_config`. `NAME:PRESET` and `FILE.py:PRESET` hand the preset
      to that function.

  Raises:
    UserError: for an unknown name or preset, a file that is not there, cannot
      be imported, or has no `get_config`.
  """
  name, *preset = source.split(':', 1)
  module = _file(Path(name)) if name.endswith('.py') else _shipped(name)
  get_config = getattr(module, 'get_config', None)
  if get_config is None:
    raise UserError(f'{name} has no function get_config().')
  if preset and not inspect.signature(get_config).parameters:
    raise UserError(f'{name} takes no preset, got {preset[0]!r}. '
                    f'Ask for {name} without the colon.')
  return get_config(*preset)


def to_config(options: Options) -> ConfigDict:
  """Returns options as a config whose fields keep their types."""
  hints = typing.get_type_hints(type(options))
  config = ConfigDict()
  for field in dataclasses.fields(options):
    value, kind = getattr(options, field.name), hints[field.name]
    if isinstance(value, Options):
      value = to_config(value)
    elif typing.get_origin(kind) is types.UnionType:
      kind, = (each for each in typing.get_args(kind)
               if each is not types.NoneType)
      if value is None:
        value = placeholder(kind)
      else:  # may be set to None again
        value, given = placeholder(kind), value
        value.set(given)
    config[field.name] = value
  return config


def summary(name: str) -> str:
  """Returns the first line of a shipped recipe's description."""
  return (_shipped(name).__doc__ or '').partition('\n')[0]


def _walk(folders, prefix) -> Iterator[str]:
  for module in pkgutil.iter_modules(folders):
    name = f'{prefix}{module.name}'
    if module.ispkg:
      yield from _walk([Path(folders[0]) / module.name], f'{name}/')
    else:
      yield name


def _shipped(name) -> ModuleType:
  if name not in names():
    raise UserError(f'No shipped recipe {name!r}. {_near(name)} A file of your '
                    'own ends in .py.')
  return importlib.import_module(f'{__name__}.{name.replace("/", ".")}')


def _near(name) -> str:
  near = difflib.get_close_matches(name, names(), 3, 0.5)
  return (f'Did you mean {" or ".join(near)}?' if near
          else f'There are {", ".join(names())}.')


def _file(path) -> ModuleType:
  if not path.is_file():
    name = str(path.with_suffix('')).removeprefix('configs/')
    raise UserError(f'No config file {path} in {Path.cwd()}. {_near(name)} '
                    'Shipped recipes have no ending.')
  spec = importlib.util.spec_from_file_location('vidleak_config', path)
  if spec is None or spec.loader is None:
    raise UserError(f'{path} cannot be read as Python.')
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
  except (ImportError, SyntaxError) as error:
    raise UserError(
        f'{path} cannot be imported: {error}. Shipped recipes are imported as '
        '`from vidleak_jax.recipes import default`.') from error
  return module
