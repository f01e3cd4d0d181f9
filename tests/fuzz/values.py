"""Nonsense for every field of an audit, found by walking its options."""

import dataclasses
import math
import typing
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from vidleak_jax.experiments.leaking import Audit
from vidleak_jax.options import Options

NONSENSE: tuple[Any, ...] = (
    None, True, False, '', 'nonsense', '3', -1, 0, 1, 2.5, -1e-30, 1e30, -1e30,
    10**30, math.nan, math.inf, -math.inf, [], {}, [-1], [math.nan], ['x'],
    [None], [[1]], {'no_such': 1}, object, b'1', 1j)


class Field(NamedTuple):
  """One field of the options of an audit."""
  name: str                # dotted, such as data.num_clips
  kind: Any                # as declared
  limits: Mapping[str, Any]
  default: Any


def fields(cls: type[Options] = Audit, prefix: str = '') -> Iterator[Field]:
  """Yields all fields, groups before what is in them."""
  hints = typing.get_type_hints(cls)
  for field in dataclasses.fields(cls):
    name, kind = f'{prefix}{field.name}', hints[field.name]
    yield Field(name, kind, field.metadata, field.default)
    if isinstance(kind, type) and issubclass(kind, Options):
      yield from fields(kind, f'{name}.')


def nested(name: str, value: Any) -> dict[str, Any]:
  """Returns `{'a': {'b': value}}` for the name `a.b`."""
  for key in reversed(name.split('.')):
    value = {key: value}
  return value


def at(options: Options, name: str) -> Any:
  """Returns the value of a dotted name."""
  for key in name.split('.'):
    options = getattr(options, key)
  return options


def allowed(value: Any, field: Field) -> bool:
  """Whether a value is of the declared type, finite and within its range.

  Written again from the declaration alone, not by `options.check`.
  """
  union = typing.get_args(field.kind)
  kinds = (field.kind,) if typing.get_origin(field.kind) is tuple else (
      union or (field.kind,))
  if value is None:
    return type(None) in kinds
  kind = kinds[0]
  origin = typing.get_origin(kind) or kind
  if type(value) is not origin:
    return False
  of = typing.get_args(kind)
  parts = value if origin is tuple else (value,)
  if of and any(type(part) not in (typing.get_args(of[0]) or (of[0],))
                for part in parts):
    return False
  return all(_in_range(part, field.limits) for part in parts)


def _in_range(value, limits) -> bool:
  if limits.get('choices'):
    return value in limits['choices']
  if isinstance(value, float | int) and not math.isfinite(value):
    return False
  bounds = [(limits.get('low'), lambda v, b: v >= b),
            (limits.get('high'), lambda v, b: v <= b),
            (limits.get('above'), lambda v, b: v > b),
            (limits.get('below'), lambda v, b: v < b)]
  return all(test(value, bound) for bound, test in bounds if bound is not None)
