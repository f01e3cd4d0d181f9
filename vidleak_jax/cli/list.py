"""Names what a config can ask for, one a line.

  vidleak list attacks|victims|defenses|configs
"""

import inspect
from collections.abc import Sequence

from vidleak_jax import recipes
from vidleak_jax.errors import UserError, pick


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
  attack = recipes.load('default').attack
  return {name: '' for name, options in attack.items()
          if hasattr(options, 'keys')}


def _victims() -> dict[str, str]:
  from vidleak_jax import victims
  return {name: _first_line(network.make)
          for name, network in victims.NETWORKS.items()}


def _defenses() -> dict[str, str]:
  return {name: f'off at {value}'
          for name, value in recipes.load('default').defense.items()}


def _first_line(thing) -> str:
  return (inspect.getdoc(thing) or '').partition('\n')[0]


TABLES = {'attacks': _attacks, 'victims': _victims, 'defenses': _defenses,
          'configs': _configs}
