"""Names what a config can ask for, one a line.

  vidleak list attacks|victims|defenses|configs|fields
"""

import dataclasses
import inspect
from collections.abc import Sequence

from vidleak_jax import recipes
from vidleak_jax.errors import UserError, pick
from vidleak_jax.options import Options


def main(words: Sequence[str]) -> None:
  """Prints one table.

  Args:
    words: the table's name.

  Raises:
    UserError: for another name, or none.
  """
  if len(words) != 1:
    raise UserError(f'Name one of {", ".join(TABLES)}: `vidleak list configs`.')
  rows = pick(TABLES, words[0], 'table')()
  width = max(map(len, rows))
  for name, text in rows.items():
    print(f'{name:{width}}  {text}'.rstrip())


def _configs() -> dict[str, str]:
  return {name: recipes.summary(name) for name in recipes.names()}


def _attacks() -> dict[str, str]:
  from vidleak_jax.attacks.registry import ATTACKS
  return {name: _first_line(attack) for name, attack in ATTACKS.items()}


def _victims() -> dict[str, str]:
  from vidleak_jax import victims
  return {name: _first_line(network.make)
          for name, network in victims.NETWORKS.items()}


def _defenses() -> dict[str, str]:
  """The fields of a config's `defense`, then what Python offers besides."""
  from vidleak_jax.clients.defenses import DEFENSES
  from vidleak_jax.specs import DefenseSpec
  fields = {field.name: field.metadata['help']
            for field in dataclasses.fields(DefenseSpec)}
  return fields | {f'vl.defenses.{name}': f'leaves {defense.leaves}'
                   for name, defense in DEFENSES.items()}


def _fields(options=None, prefix='') -> dict[str, str]:
  """Every field of a config: its meaning and its default."""
  from vidleak_jax.experiments.leaking import Audit
  rows: dict[str, str] = {}
  for field in dataclasses.fields(options or Audit()):
    value = getattr(options or Audit(), field.name)
    name = f'{prefix}{field.name}'
    if isinstance(value, Options):
      rows |= _fields(value, f'{name}.')
    else:
      rows[name] = f'{value!r}: {field.metadata["help"]}'
  return rows


def _first_line(thing) -> str:
  return (inspect.getdoc(thing) or '').partition('\n')[0]


TABLES = {'attacks': _attacks, 'victims': _victims, 'defenses': _defenses,
          'configs': _configs, 'fields': _fields}
