"""From a config with a `sweep` to its trials."""

import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vidleak_jax.errors import nearest
from vidleak_jax.experiments.leaking import Audit
from vidleak_jax.options import check, known
from vidleak_jax.types import Row, UserError, pick


class Trial(NamedTuple):
  """One run of the main job."""
  name: str     # the hash of its audit: its identity
  fields: Row   # what the sweep varies: dotted name -> its value
  audit: Audit


class Distribution(NamedTuple):
  """What a field is drawn from."""
  kind: str
  arguments: tuple

  def draw(self, rng: np.random.Generator) -> Any:
    """Returns one sample."""
    return _KINDS[self.kind].draw(rng, *self.arguments)


class Space(NamedTuple):
  """What varies; what is given is multiplied with each other."""
  grid: Mapping[str, Sequence]          # dotted name -> values
  random: Mapping[str, Distribution]    # dotted name -> what it is drawn from
  overrides: Sequence[Mapping[str, Any]]  # each what one trial changes
  num_samples: int                      # draws from `random`
  seed: int                             # of the draws

  @property
  def names(self) -> list[str]:
    """The dotted names of all fields that vary."""
    parts = [self.random, *self.overrides, self.grid]
    return list(dict.fromkeys(name for part in parts for name in part))


def trials(config: Mapping[str, Any]) -> list[Trial]:
  """Returns all trials of a sweep, each once, in the order of the sweep.

  Args:
    config: resolved, with a field `sweep` as `recipes.sweeps.space` makes it.

  Raises:
    UserError: without a `sweep`, for a field that the config does not have, a
      value that is not allowed, or a distribution that does not exist.
  """
  _, space = split(config)
  found = [each for drawn in _draws(space) for each in around(config, drawn)]
  return list({each.name: each for each in found}.values())


def around(config: Mapping[str, Any], drawn: Mapping[str, Any]) -> list[Trial]:
  """Returns the trials of one draw: it stands in all overrides and cells."""
  base, space = split(config)
  return [_trial(base, {**drawn, **given, **cell}, space.names)
          for given in space.overrides or [{}] for cell in _cells(space.grid)]


def split(config: Mapping[str, Any]) -> tuple[Row, Space]:
  """Returns what all trials share, every field of it, and what varies.

  Raises:
    UserError: as `trials`.
  """
  base = dict(config)
  sweep = base.pop('sweep', None)
  if not sweep:
    raise UserError('This config has no field `sweep`, so nothing varies. '
                    'Choose one of configs/sweeps, or see docs/sweeps.md.')
  known(sweep, Space._fields, 'sweep')
  return Audit.from_dict(base).to_dict(), Space(
      {name: _values(name, values) for name, values in sweep['grid'].items()},
      {name: _distribution(name, how)
       for name, how in sweep['random'].items()},
      [dict(each) for each in sweep['overrides']],
      check(sweep['num_samples'], int, 'sweep.num_samples', {'low': 1}),
      check(sweep['seed'], int, 'sweep.seed', {'low': 0}))


def identity(config: Mapping[str, Any]) -> str:
  """Returns 16 hexadecimal digits; the order of fields does not matter."""
  text = json.dumps(config, sort_keys=True, separators=(',', ':'))
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def _trial(base, change, names) -> Trial:
  config = base
  for name, value in change.items():
    config = _changed(config, name, name.split('.'), value)
  audit = Audit.from_dict(config)  # 1 and 1.0 are one trial
  found = audit.to_dict()
  return Trial(identity(found), {k: _value(found, k) for k in names}, audit)


def _cells(grid) -> Iterator[Row]:
  for values in itertools.product(*grid.values()):
    yield dict(zip(grid, values, strict=True))


def _draws(space) -> Iterator[Row]:
  if not space.random:
    yield {}
    return
  for i in range(space.num_samples):
    yield {name: how.draw(_generator(name, space.seed, i))
           for name, how in space.random.items()}


def _generator(name, seed, i) -> np.random.Generator:
  """Sample i of a field: other fields and samples do not shift it."""
  own = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])
  return np.random.default_rng([seed, i, own])


class _Kind(NamedTuple):
  draw: Any    # (rng, *arguments) -> a value
  takes: str   # for messages
  fits: Any    # arguments -> whether they are allowed


def _bounds(low, high, kind=(int, float)):
  return all(isinstance(x, kind) and not isinstance(x, bool)
             and math.isfinite(x) for x in (low, high)) and low <= high


_KINDS = {
    'uniform': _Kind(
        lambda rng, low, high: float(rng.uniform(low, high)),
        'two numbers, the lower first', _bounds),
    'log_uniform': _Kind(
        lambda rng, low, high: math.exp(
            rng.uniform(math.log(low), math.log(high))),
        'two numbers above 0, the lower first',
        lambda low, high: _bounds(low, high) and low > 0),
    'integers': _Kind(
        lambda rng, low, high: int(rng.integers(low, high + 1)),
        'two whole numbers, the lower first',
        lambda low, high: _bounds(low, high, int)),
    'choice': _Kind(
        lambda rng, values: values[rng.integers(len(values))],
        'a list of values', lambda values: isinstance(
            values, list | tuple) and len(values) > 0),
}


def _values(name, values) -> Sequence:
  if not isinstance(values, list | tuple) or not values:
    raise UserError(f'sweep.grid.{name} is {values!r}; it must be a list of '
                    'values, at least one.')
  return values


def _distribution(name, how) -> Distribution:
  if not isinstance(how, list | tuple) or not how:
    raise UserError(f'sweep.random.{name} is {how!r}; it must begin with one '
                    f'of {", ".join(_KINDS)}.')
  kind, *arguments = how
  rule = pick(_KINDS, kind, f'distribution of {name}')
  try:
    fits = rule.fits(*arguments)
  except TypeError:  # another number of arguments
    fits = False
  if not fits:
    raise UserError(f'sweep.random.{name} is {how!r}; {kind} takes '
                    f'{rule.takes}.')
  return Distribution(kind, tuple(arguments))


def _value(config, name):
  for part in name.split('.'):
    config = config[part]
  return config


def _changed(config, name, parts, value):
  """A copy of nested dicts with one leaf changed; what it shares is shared."""
  first, *rest = parts
  if not isinstance(config, dict):
    raise UserError(f'No such config field: {name}; nothing stands below its '
                    'parent.')
  if first not in config:
    raise UserError(f'No such config field: {name}.{nearest(first, config)} '
                    f'At {first!r} there are: {", ".join(config)}.')
  if rest:
    return config | {first: _changed(config[first], name, rest, value)}
  return config | {first: value}
