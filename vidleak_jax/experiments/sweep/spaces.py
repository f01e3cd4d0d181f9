"""From a config with a `sweep` to its trials."""

import difflib
import hashlib
import itertools
import json
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from vidleak_jax.types import UserError, pick


class Trial(NamedTuple):
  """One run of the main job."""
  name: str               # the hash of its config: its identity
  fields: dict[str, Any]  # what the sweep varies: dotted name -> its value
  config: dict[str, Any]  # resolved


def trials(config: dict[str, Any]) -> list[Trial]:
  """All trials of a sweep, each once, in the order of the sweep.

  Args:
    config: resolved, with a field `sweep` as `configs.sweeps.space` makes it.

  Raises:
    UserError: without a `sweep`, for a field that the config does not have, a
      value of another type, or a distribution that does not exist.
  """
  _, sweep = split(config)
  found = [each for drawn in _draws(sweep) for each in around(config, drawn)]
  return list({each.name: each for each in found}.values())


def around(config: dict[str, Any], drawn: dict[str, Any]) -> list[Trial]:
  """The trials of one draw: it stands in all overrides and grid cells."""
  base, sweep = split(config)
  names = swept(sweep)
  return [_trial(base, drawn | given | cell, names)
          for given in [*sweep['overrides']] or [{}]
          for cell in _cells(sweep['grid'])]


def split(config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
  """What all trials share, and what varies."""
  base = dict(config)
  sweep = base.pop('sweep', None)
  if not sweep:
    raise UserError('This config has no field `sweep`, so nothing varies. '
                    'Choose one of configs/sweeps, or see docs/sweeps.md.')
  return base, sweep


def swept(sweep: dict[str, Any]) -> list[str]:
  """The dotted names of all fields that vary."""
  parts = [sweep['random'], *sweep['overrides'], sweep['grid']]
  return list(dict.fromkeys(name for part in parts for name in part))


def identity(config: dict[str, Any]) -> str:
  """16 hexadecimal digits; the order of fields does not matter."""
  text = json.dumps(config, sort_keys=True, separators=(',', ':'))
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def _trial(base, change, names) -> Trial:
  config = base
  for name, value in change.items():
    config = _changed(config, name, name.split('.'), value)
  return Trial(identity(config), {k: _value(config, k) for k in names}, config)


def _cells(grid) -> Iterator[dict[str, Any]]:
  for values in itertools.product(*grid.values()):
    yield dict(zip(grid, values, strict=True))


def _draws(sweep) -> Iterator[dict[str, Any]]:
  if not sweep['random']:
    yield {}
    return
  for i in range(sweep['num_samples']):
    yield {name: _draw(name, how, sweep['seed'], i)
           for name, how in sweep['random'].items()}


def _draw(name, how, seed, i):
  """Sample i of a field: other fields and samples do not shift it."""
  kind, *arguments = how
  own = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])
  rng = np.random.default_rng([seed, i, own])
  return pick(_KINDS, kind, f'distribution of {name}')(rng, *arguments)


_KINDS = {
    'uniform': lambda rng, low, high: float(rng.uniform(low, high)),
    'log_uniform': lambda rng, low, high: math.exp(
        rng.uniform(math.log(low), math.log(high))),
    'integers': lambda rng, low, high: int(rng.integers(low, high + 1)),
    'choice': lambda rng, values: values[rng.integers(len(values))],
}


def _value(config, name):
  for part in name.split('.'):
    config = config[part]
  return config


def _changed(config, name, parts, value):
  """A copy of nested dicts with one leaf changed; what it shares is shared."""
  first, *rest = parts
  if not isinstance(config, dict) or first not in config:
    raise UserError(_unknown(config, name, first))
  old = config[first]
  if rest:
    return config | {first: _changed(old, name, rest, value)}
  return config | {first: _fitting(name, old, value)}


def _unknown(config, name, part):
  if not isinstance(config, dict):
    return f'No such config field: {name}; nothing stands below its parent.'
  near = difflib.get_close_matches(part, config, 1)
  hint = f' Did you mean {near[0]!r}?' if near else ''
  return (f'No such config field: {name}.{hint} At {part!r} there are: '
          f'{", ".join(map(str, config))}.')


def _fitting(name, old, value):
  """`value` in the type of `old`, so that 1 and 1.0 are one trial."""
  if isinstance(value, np.generic):
    value = value.item()
  number = isinstance(value, int) and not isinstance(value, bool)
  if isinstance(old, float) and number:
    return float(value)
  if isinstance(old, list | tuple) and isinstance(value, list | tuple):
    return list(value)
  if not isinstance(old, dict) and (
      value is None or old is None or type(value) is type(old)):
    return value
  raise UserError(f'{name} is {old!r}; the sweep gives {value!r}, of type '
                  f'{type(value).__name__}.')
