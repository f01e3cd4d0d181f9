"""What every launcher shares: flags, and errors a person can read."""

import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from vidleak_jax import files, recipes
from vidleak_jax.runtime import backend, signals
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
  flags.register_validator('workdir', bool, 'Say where everything is written: '
                           '--workdir=DIR.')


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
  """Parses flags and runs `main`; a user's mistake ends without a traceback.

  Exit status: 0; 1 for a mistake; 130 after Ctrl-C and 143 after SIGTERM, which
  leave a complete checkpoint of the last chunk. The options of JAX and the mode
  of new files (readable by their owner only) are set for the whole process.
  """

  def guarded(argv):
    if len(argv) > 1:
      _fail(f'Unexpected arguments {argv[1:]}. Flags look like --name=value.')
    os.umask(0o077)
    backend.one_device_per_core()
    backend.apply()
    try:
      _join_processes()  # before SIGTERM is ours: JAX takes it, too
      with signals.terminating():
        main()
    except UserError as error:
      _fail(str(error))
    except signals.Terminated:
      _leave('Terminated', signals.EXIT_STATUS)
    except KeyboardInterrupt:
      _leave('Interrupted', _INTERRUPTED)
    except Exception as error:
      if not files.disk_is_full(error):
        raise
      _fail(f'The disk is full: {error}. Make space and run the same command: '
            'it goes on from the last checkpoint.')
  app.run(guarded, flags_parser=_parse)


def _parse(argv):
  with _explaining(argv):
    rest = flags.FLAGS(argv)
    if flags.FLAGS['verbosity'].using_default_value:
      # Orbax tells a lot at INFO.
      flags.FLAGS.verbosity = logging.WARNING  # type: ignore[assignment]
    return rest


@contextmanager
def _explaining(argv):
  """Tells faults of flags in a line, and those of a config file as its own."""
  file = _config_file(argv)
  try:
    yield
  except Exception as error:
    if file and _is_fault_of(file.resolve(), error):
      _fail(f'{file} cannot be loaded:\n{_told_by(file.resolve(), error)}')
    if isinstance(error, KeyError | AttributeError):  # config_flags' typos
      text = str(error).strip('"\'').replace('\\n', ' ').replace("\\'", "'")
      _fail(f'No such config field: {" ".join(text.split())}')
    if isinstance(error, flags.Error | OSError | TypeError | ValueError):
      _fail(' '.join(str(error).split()))
    raise


def _config_file(argv) -> Path | None:
  """The user's own file that --config names, if it names one."""
  for arg, following in zip(argv, [*argv[1:], '']):
    name, is_given, value = arg.lstrip('-').partition('=')
    if name == 'config' and arg.startswith('-'):
      file = Path((value if is_given else following).split(':', 1)[0])
      return file if file.is_file() else None
  return None


def _is_fault_of(file, error) -> bool:
  """Whether an error was raised in the config file, or in what it calls.

  An override is applied by `config_flags` alone: nothing of the file runs.
  """
  return bool(_syntax_errors(error)) or file in _files_of(error)


def _syntax_errors(error) -> list[SyntaxError]:
  return [each for each in _chain(error) if isinstance(each, SyntaxError)]


def _files_of(error) -> list[Path]:
  """The files of an error's traceback, and of those that it followed from."""
  return [Path(frame.filename).resolve() for each in _chain(error)
          for frame in traceback.extract_tb(each.__traceback__)]


def _chain(error: BaseException | None) -> Iterator[BaseException]:
  """Yields an error, and those that it followed from."""
  while error is not None:
    yield error
    error = error.__cause__ or error.__context__


def _told_by(file, error) -> str:
  """The traceback from the config file on."""
  if file not in _files_of(error):  # it does not even compile
    return ''.join(traceback.format_exception_only(
        _syntax_errors(error)[0])).rstrip()
  while error.__context__ is not None and file in _files_of(error.__context__):
    error = error.__context__  # config_flags wraps some in its own
  frames = traceback.extract_tb(error.__traceback__)
  first = next(i for i, frame in enumerate(frames)
               if Path(frame.filename).resolve() == file)
  return ''.join(traceback.format_list(frames[first:])
                 + traceback.format_exception_only(error)).rstrip()


def _leave(what, status):
  print(f'\n{what}. The same command goes on from the last checkpoint.',
        file=sys.stderr)
  sys.exit(status)


def _fail(message):
  print(f'error: {message}', file=sys.stderr)
  sys.exit(1)
