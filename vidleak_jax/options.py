"""Typed options: frozen dataclasses whose fields say what they allow.

Each option stands once, with its default, its meaning and its range. Configs
are generated from these classes, and every value is checked where it enters:

  >>> @dataclasses.dataclass(frozen=True)
  ... class Blur(Options):
  ...   width: float = option(1.0, 'standard deviation, pixels', above=0)
  >>> Blur(width=2)
  Blur(width=2.0)
  >>> Blur(width=-1.0)
  Traceback (most recent call last):
  vidleak_jax.errors.UserError: width is -1.0; it must be a number above 0.
"""

import copy
import dataclasses
import math
import os
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Self

from vidleak_jax.errors import UserError, nearest, shown

Numbers = Mapping[str, Any]  # floats, or arrays, by field; groups are nested

_FIELDS: dict[type, list[tuple[dataclasses.Field, Any]]] = {}  # of each class
_LARGEST = 1e15  # beyond it a number is a slip of the hand
_TRACED = 1.0     # stands in a structure for a number that is not 0


def option(
    default: Any, help: str, *, low: float | None = None,
    high: float | None = None, above: float | None = None,
    below: float | None = None, choices: Iterable[str] = (),
    traced: bool = False,
) -> Any:
  """Returns a dataclass field that knows what it allows.

  Args:
    default: its value where none is given.
    help: what it means, in a few words.
    low: the smallest value allowed.
    high: the largest value allowed.
    above: what every value must exceed.
    below: what every value must stay under.
    choices: the names allowed, for a string.
    traced: whether the number is an argument of a compiled program. Options
      that differ in traced numbers alone share a program. A traced number of
      0 switches its term off, which is a part of the program's structure.
  """
  return dataclasses.field(default=default, metadata={
      'help': help, 'low': low, 'high': high, 'above': above, 'below': below,
      'choices': tuple(choices), 'traced': traced})


@dataclasses.dataclass(frozen=True)
class Options:
  """Base of all options: checks every field by its type and its range.

  Raises:
    UserError: naming the field, what came and what is allowed.
  """

  def __post_init__(self):
    for field, kind in _fields(type(self)):
      value = check(getattr(self, field.name), kind, field.name,
                    field.metadata)
      object.__setattr__(self, field.name, value)

  def replace(self, **changes: Any) -> Self:
    """Returns a copy with some fields changed and checked."""
    known(changes, [f.name for f, _ in _fields(type(self))],
          type(self).__name__)
    return dataclasses.replace(self, **changes)

  def to_dict(self) -> dict[str, Any]:
    """Returns plain values, nested options as dicts."""
    return {f.name: value.to_dict() if isinstance(value, Options) else value
            for f, _ in _fields(type(self))
            for value in [getattr(self, f.name)]}

  @classmethod
  def from_dict(cls, values: Mapping[str, Any], prefix: str = '') -> Self:
    """Returns options from plain values, a config's or a JSON file's.

    Args:
      values: some or all fields; nested options as mappings.
      prefix: of field names in messages, such as `attack.`.

    Raises:
      UserError: for an unknown field, or a value that is not allowed.
    """
    what = prefix.rstrip('.') or cls.__name__
    if not isinstance(values, Mapping):
      raise UserError(
          f'{what} is {shown(values)}; it must be a group of fields.')
    fields = {field.name: (field, kind) for field, kind in _fields(cls)}
    known(values, fields, what)
    given = {}
    for name, value in values.items():
      field, kind = fields[name]
      if isinstance(field.default, Options) and isinstance(value, Mapping):
        value = _filled(field.default, value)  # its owner's own defaults
      given[name] = check(value, kind, f'{prefix}{name}', field.metadata)
    return cls(**given)


def known(names: Iterable[str], allowed: Iterable[str], what: str) -> None:
  """Raises UserError for a name that is not allowed, with the nearest one."""
  allowed = list(allowed)
  for name in names:
    if name not in allowed:
      raise UserError(
          f'{what} has no field {shown(name)}.'
          f'{nearest(name, allowed) or " It has: " + ", ".join(allowed) + "."}')


def check(value: Any, kind: Any, name: str,
          limits: Mapping[str, Any] = types.MappingProxyType({})) -> Any:
  """Returns the value in its declared type.

  Args:
    value: what came.
    kind: bool, int, float, str, tuple[...], a subclass of Options, or one of
      these `| None`. Integers pass as floats, lists as tuples, mappings as
      options.
    name: of the field, for messages.
    limits: as `option` stores them.

  Raises:
    UserError: for another type, NaN, infinity, or a value out of range.
  """
  union = typing.get_origin(kind) in (typing.Union, types.UnionType)
  kinds = typing.get_args(kind) if union else (kind,)
  if value is None and type(None) in kinds:
    return None
  kind = next(each for each in kinds if each is not type(None))
  if isinstance(kind, type) and issubclass(kind, Options):
    return value if isinstance(value, kind) else kind.from_dict(
        value, f'{name}.')
  converted = _convert(value, typing.get_origin(kind) or kind,
                       typing.get_args(kind))
  if converted is None or not _within(converted, limits):
    raise UserError(f'{name} is {shown(value)}; it must be '
                    f'{_describe(kind, limits)}'
                    f'{" or None" * (type(None) in kinds)}.'
                    f'{nearest(value, limits.get("choices") or ())}')
  return converted


def split(options: Options) -> tuple[Options, Numbers]:
  """Returns (structure, numbers): a program, and its arguments.

  The structure is hashable; in it each traced number that is not 0 is marked.
  The numbers are nested dicts of those floats, by field. Options that differ
  in traced numbers alone have equal structures.
  """
  structure, numbers = copy.copy(options), dict[str, Any]()
  for field, _ in _fields(type(options)):
    value = getattr(options, field.name)
    if isinstance(value, Options):
      value, inner = split(value)
      if inner:
        numbers[field.name] = inner
    elif field.metadata.get('traced') and value:
      numbers[field.name], value = value, _TRACED
    object.__setattr__(structure, field.name, value)
  return structure, numbers


def bind(structure: Options, numbers: Numbers) -> Any:
  """Returns options with these numbers in their places, the inverse of `split`.

  The numbers may be arrays under trace, so they are not checked again.
  """
  bound = copy.copy(structure)
  for name, value in numbers.items():
    inner = getattr(structure, name)
    if isinstance(inner, Options):
      value = bind(inner, value)
    object.__setattr__(bound, name, value)
  return bound


def _filled(default: Options, values: Mapping[str, Any]) -> Numbers:
  """The values, with those of a default where there is none."""
  filled = default.to_dict() | dict(values)
  for name, value in values.items():
    inner = getattr(default, name, None)
    if isinstance(inner, Options) and isinstance(value, Mapping):
      filled[name] = _filled(inner, value)
  return filled


def _fields(cls):
  if cls not in _FIELDS:
    hints = typing.get_type_hints(cls)
    _FIELDS[cls] = [(field, hints[field.name])
                    for field in dataclasses.fields(cls)]
  return _FIELDS[cls]


def _convert(value, kind, of):
  """The value as `kind`, or None where it is something else."""
  if typing.get_origin(kind) in (typing.Union, types.UnionType):
    return next((converted for each in typing.get_args(kind)
                 if (converted := _convert(value, each, ())) is not None), None)
  number = isinstance(value, int | float) and not isinstance(value, bool)
  if hasattr(value, 'item') and getattr(value, 'shape', None) == ():
    return _convert(value.item(), kind, of)  # a NumPy scalar
  if kind is float and number:
    finite = math.isfinite(value) and abs(value) <= _LARGEST
    return float(value) if finite else None
  if kind is int and number:
    whole = math.isfinite(value) and value == int(value)
    return int(value) if whole and abs(value) <= _LARGEST else None
  if kind is tuple and isinstance(value, list | tuple):
    if not of:
      return tuple(value)
    parts = [_convert(each, of[0], ()) for each in value]
    return None if None in parts else tuple(parts)
  if kind is str and isinstance(value, os.PathLike):
    return os.fspath(value)
  if kind in (bool, str) and isinstance(value, kind):
    return value
  return value if kind is Any else None


def _within(value, limits) -> bool:
  choices = limits.get('choices')
  if choices and value not in choices:
    return False
  values = value if isinstance(value, tuple) else (value,)
  tests = {'low': lambda v, b: v >= b, 'high': lambda v, b: v <= b,
           'above': lambda v, b: v > b, 'below': lambda v, b: v < b}
  return all(test(v, limits[name]) for name, test in tests.items()
             if limits.get(name) is not None for v in values)


_KINDS = {bool: 'true or false', int: 'a whole number', float: 'a number',
          str: 'text', tuple: 'a list'}


def _describe(kind, limits) -> str:
  if limits.get('choices'):
    return f'one of {", ".join(limits["choices"])}'
  text = _KINDS.get(typing.get_origin(kind) or kind, 'another value')
  bounds = [f'{word} {limits[name]:g}' for name, word in (
      ('low', 'from'), ('above', 'above'), ('high', 'up to'),
      ('below', 'below')) if limits.get(name) is not None]
  return ' '.join([text, *bounds])
