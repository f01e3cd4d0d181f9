"""What every launcher shares: flags, and errors a person can read."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from vidleak_jax import files, recipes
from vidleak_jax.runtime import backend
from vidleak_jax.types import UserError

_INTERRUPTED = 130  # what shells expect after Ctrl-C


_PROCESSES = ('coordinator_address', 'num_processes', 'process_id')


class _RecipeParser(flags.ArgumentParser):
  """Turns the value of --config into a locked config."""

  def parse(self, argument: str) -> ConfigDict:
    return recipes.load(argument).lock()

  def flag_type(self) -> str:
    return 'config'


def define_flags(default_config: str) -> None:
  """Defines --config (with --config.FIELD=VALUE) and --workdir.

  Args:
    default_config: a shipped recipe, for a command without --config.
  """
  # Without a value of --config a default is parsed, with all fields that were
  # set, here and not where `run` reports errors. So it is made a value.
  if not any(re.match(r'--?config(=|$)', word) for word in sys.argv[1:]):
    sys.argv.insert(1, f'--config={default_config}')
  config_flags.DEFINE_config_file(
      'config', default_config, 'A shipped recipe (`vidleak list configs`) or '
      'a file with get_config(); NAME:PRESET, FILE.py:PRESET. '
      '--config.FIELD=VALUE sets a field.', lock_config=True)
  flags.FLAGS['config'].parser = _RecipeParser()
  flags.DEFINE_string('workdir', None, 'Where everything is written.')
  flags.mark_flag_as_required('workdir')


def define_process_flags() -> None:
  """Defines the flags by which several processes share one run."""
  flags.DEFINE_bool(
      'distributed', False, 'This is one of several processes that SLURM, MPI '
      'or a TPU pod started; JAX finds the others by itself.')
  flags.DEFINE_string(
      'coordinator_address', None, 'Host and port of process 0, where JAX '
      'cannot find the processes by itself.')
  flags.DEFINE_integer('num_processes', None, 'How many there are.')
  flags.DEFINE_integer('process_id', None, 'Which one this is, from 0.')


def _join_processes() -> None:
  """Makes this process one of several, where the flags say so."""
  if 'distributed' not in flags.FLAGS:
    return
  given: dict[str, Any] = {
      name: flags.FLAGS[name].value for name in _PROCESSES}
  missing = [f'--{name}' for name, value in given.items() if value is None]
  if len(missing) == len(given):
    if flags.FLAGS.distributed:
      _initialize({})
  elif missing:
    raise UserError(f'Several processes need {" and ".join(missing)} too.')
  elif not 0 <= given['process_id'] < given['num_processes']:
    raise UserError(
        f'--process_id={given["process_id"]} with '
        f'--num_processes={given["num_processes"]}: count from 0.')
  else:
    _initialize(given)


def _initialize(given) -> None:
  try:
    jax.distributed.initialize(**given)
  except (RuntimeError, ValueError) as error:
    raise UserError(
        f'The processes did not find each other: {error}. Start all of them, '
        'with the same --coordinator_address and --num_processes.') from error


def resolved_config() -> dict:
  """The config with its overrides, as plain dicts."""
  return flags.FLAGS.config.to_dict()


def workdir() -> Path:
  """The --workdir flag."""
  return Path(flags.FLAGS.workdir)


def run(main: Callable[[], None]) -> None:
  """Parses flags and runs `main`; a user's mistake ends without a traceback."""

  def guarded(argv):
    if len(argv) > 1:
      _fail(f'Unexpected arguments {argv[1:]}. Flags look like --name=value.')
    backend.one_device_per_core()
    try:
      _join_processes()
      main()
    except UserError as error:
      _fail(str(error))
    except KeyboardInterrupt:
      print('\nInterrupted. The same command goes on from the last checkpoint.',
            file=sys.stderr)
      sys.exit(_INTERRUPTED)
    except Exception as error:
      if not files.disk_is_full(error):
        raise
      _fail(f'The disk is full: {error}. Make space and run the same command: '
            'it goes on from the last checkpoint.')
  app.run(guarded, flags_parser=_parse)


def _parse(argv):
  try:
    rest = flags.FLAGS(argv)
    if flags.FLAGS['verbosity'].using_default_value:
      # Orbax tells a lot at INFO.
      flags.FLAGS.verbosity = logging.WARNING  # type: ignore[assignment]
    return rest
  except flags.Error as error:
    _fail(str(error))
  except (KeyError, AttributeError) as error:  # how config_flags tells a typo
    text = str(error).strip('"\'').replace('\\n', '\n').replace("\\'", '')
    _fail(f'No such config field: {text}')
  except (OSError, TypeError, ValueError) as error:
    _fail(str(error))


def _fail(message):
  print(f'error: {message}', file=sys.stderr)
  sys.exit(1)
