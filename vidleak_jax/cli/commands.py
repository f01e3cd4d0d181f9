"""The programs by name, and how one starts.

A program is a module of this folder, named as in the table with `_` for a
space. One with flags has `define_flags()` and `main()`; one without has
`main(words)`, where words are what follows its name. To add one, write the
module and a line in `COMMANDS`.
"""

import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from vidleak_jax.errors import UserError


class Command(NamedTuple):
  """One program."""
  summary: str            # one line of `vidleak --help`
  has_flags: bool = True  # absl's; else plain words follow its name


COMMANDS = {
    'attack': Command('Recover clips from a client update and score them'),
    'audit': Command('Try every attack on an update, and give one verdict'),
    'import_update': Command('Make a leak of a real update, and check it'),
    'sweep': Command('Run many attacks here, on a Ray cluster or on SLURM'),
    'report': Command('Write one page about a sweep'),
    'enhance': Command('Enlarge a video, an image or recovered clips'),
    'paper': Command("Set the paper's results beside ours"),
    'train victim': Command('Train a network, to attack it trained'),
    'train superres': Command('Train a super-resolution network'),
    'train blend': Command('Train the decoder of frozen features'),
    'list': Command('Name the attacks, victims, defenses or configs', False),
    'doctor': Command('Show devices, versions and optional parts', False),
}


_SHORT = {'import': 'import_update'}


def find(words: Sequence[str]) -> str | None:
  """Returns the command that the first one or two words name, or None."""
  words = [_SHORT.get(words[0], words[0]), *words[1:]] if words else []
  names = (' '.join(words[:2]), ' '.join(words[:1]))
  return next((name for name in names if name in COMMANDS), None)


def start(name: str, *, from_script: bool = True) -> None:
  """Runs a program on the words and flags in `sys.argv[1:]`.

  Args:
    name: a key of `COMMANDS`.
    from_script: whether --help shows the docstring of the script that was
      started, rather than the program's.
  """
  module = importlib.import_module(f'{__package__}.{name.replace(" ", "_")}')
  if COMMANDS[name].has_flags:
    _run(module, from_script)
  else:
    _answer(module)


def _run(module, from_script) -> None:
  from absl import flags

  from vidleak_jax.cli import launcher
  if not from_script:
    sys.modules['__main__'].__doc__ = module.__doc__  # what absl shows
  before = set(flags.FLAGS)
  module.define_flags()
  for flag in set(flags.FLAGS) - before:  # so that --help shows all of them
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[flag])
  launcher.run(module.main)


def _answer(module) -> None:
  words = sys.argv[1:]
  if {'-h', '--help'} & set(words):
    print(module.__doc__.strip())
    return
  try:
    module.main(words)
  except UserError as error:
    sys.exit(f'error: {error}')
