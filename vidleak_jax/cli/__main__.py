"""The command `vidleak`: finds a program by its name and starts it."""

import sys

from vidleak_jax.cli import commands
from vidleak_jax.errors import nearest

_USAGE = 2  # what shells expect after a command that does not exist


def main() -> None:
  """Runs the program that the first words of the command line name."""
  words = sys.argv[1:]
  if not words or words[0] in ('-h', '--help', 'help'):
    print(_help())
  elif words[0] in ('-v', '--version', 'version'):
    print(_version())
  elif name := commands.find(words):
    sys.argv = [f'vidleak {name}', *words[len(name.split()):]]
    commands.start(name, from_script=False)
  else:
    asked = ' '.join(word for word in words[:2] if not word.startswith('-'))
    print(f'error: No command {asked!r}.{_near(asked)} `vidleak --help` lists '
          'all.', file=sys.stderr)
    sys.exit(_USAGE)


def _help() -> str:
  width = max(map(len, commands.COMMANDS))
  lines = [f'  vidleak {name:{width}}  {command.summary}'
           for name, command in commands.COMMANDS.items()]
  return '\n'.join([
      'How much of a private video leaks through federated-learning updates.',
      '', *lines, '',
      '  vidleak COMMAND --help shows the flags of a command, and examples.',
      '  vidleak list configs names the recipes that --config=NAME takes.'])


def _near(asked) -> str:
  longer = [name for name in commands.COMMANDS if name.startswith(f'{asked} ')]
  return (f' There are {", ".join(longer)}.' if longer
          else nearest(asked, commands.COMMANDS))


def _version() -> str:
  from importlib.metadata import version
  return f'vidleak_jax {version("vidleak_jax")}'


if __name__ == '__main__':
  main()
