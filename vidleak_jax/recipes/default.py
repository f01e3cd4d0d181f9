"""Every field; the other recipes are this plus overrides.

  vidleak attack --config=default --workdir=runs/default

The fields, their meaning, defaults and ranges stand in `specs.py` and, for the
attacks, beside each attack; `vidleak list fields` prints them.
"""

import dataclasses
import types
import typing

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from vidleak_jax.experiments.leaking import Audit
from vidleak_jax.options import Options


def get_config() -> ConfigDict:
  """Returns the default: all that applies, on one clip that is embedded."""
  return to_config(Audit())


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
