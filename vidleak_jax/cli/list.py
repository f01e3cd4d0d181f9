"""Names what a config can ask for, one a line.

  vidleak list attacks|victims|defenses|configs|fields [--json]
  vidleak list attacks CONFIG [--json]

With a recipe or a file as CONFIG, `list attacks` says of every attack whether
it applies to that network and protocol, or why not.
"""

import dataclasses
import inspect
import json
from collections.abc import Sequence
from typing import Any

from vidleak_jax import recipes
from vidleak_jax.errors import UserError, pick
from vidleak_jax.options import Options

_JSON = '--json'


def main(words: Sequence[str]) -> None:
  """Prints one table.

  Args:
    words: the table's name, a config where attacks are asked for, `--json`.

  Raises:
    UserError: for another name, or none.
  """
  names = [word for word in words if word != _JSON]
  if not names:
    raise UserError(f'Name one of {", ".join(TABLES)}: `vidleak list configs`.')
  table = pick(TABLES, names[0], 'table')
  if len(names) > 2 or (len(names) == 2 and names[0] != 'attacks'):
    raise UserError(f'`vidleak list {names[0]}` takes nothing more, got '
                    f'{names[-1]!r}. A config follows `list attacks` alone.')
  rows = _applicable(names[1]) if len(names) == 2 else table()
  if _JSON in words:
    print(json.dumps(rows, indent=2))
    return
  width = max(map(len, rows))
  for name, text in rows.items():
    print(f'{name:{width}}  {_line(text)}'.rstrip())


def _line(text: str | list[str]) -> str:
  """A description, or the reasons why an attack does not apply."""
  return text if isinstance(text, str) else '; '.join(text) or 'applies'


def _configs() -> dict[str, str]:
  return {name: recipes.summary(name) for name in recipes.names()}


def _attacks() -> dict[str, str]:
  from vidleak_jax.attacks.registry import ATTACKS
  return {name: _first_line(attack) for name, attack in ATTACKS.items()}


def _applicable(source: str) -> dict[str, list[str]]:
  """Of each attack why it does not apply to what a config simulates."""
  from vidleak_jax.attacks.registry import ATTACKS
  from vidleak_jax.experiments import leaking
  audit = leaking.Audit.from_dict(recipes.load(source).to_dict())
  victim, leak = leaking.example(audit)
  return {name: getattr(audit.attack, name).requires(victim, leak)
          for name in ATTACKS}


def _victims() -> dict[str, str]:
  from vidleak_jax import victims
  return {name: _first_line(network.make)
          for name, network in victims.NETWORKS.items()}


def _defenses() -> dict[str, str]:
  """The fields of a config's `defense`, then what Python offers besides."""
  from vidleak_jax.clients.defenses import DEFENSES
  from vidleak_jax.specs import ClientDefense
  fields = {name: text.partition(': ')[2]
            for name, text in _fields(ClientDefense()).items()}
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


def _first_line(thing: Any) -> str:
  return (inspect.getdoc(thing) or '').partition('\n')[0]


TABLES = {'attacks': _attacks, 'victims': _victims, 'defenses': _defenses,
          'configs': _configs, 'fields': _fields}
