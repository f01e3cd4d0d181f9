"""Shows devices, versions, optional parts and how to get what is missing.

  vidleak doctor [--json]
"""

import json
import os
import platform
from collections.abc import Iterator, Sequence
from importlib import metadata, util
from pathlib import Path

from vidleak_jax import optional
from vidleak_jax.errors import UserError
from vidleak_jax.runtime import host

_LIBRARIES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy',
              'scipy', 'ml_collections', 'tensorflow-datasets', 'safetensors')
_ACCELERATORS = {'cuda': 'jax_cuda12_plugin', 'tpu': 'libtpu'}


def main(words: Sequence[str]) -> None:
  """Prints the page.

  Args:
    words: `--json` or nothing.

  Raises:
    UserError: for any other word.
  """
  others = [word for word in words if word != '--json']
  if others:
    raise UserError(f'`vidleak doctor` takes --json alone, got {others[0]!r}.')
  parts = {title: dict(lines) for title, lines in (
      ('Versions', _versions()), ('Devices', _devices()),
      ('Optional parts', _extras()), ('Files', _files()))}
  if words:
    print(json.dumps(parts, indent=2))
    return
  for title, lines in parts.items():
    print(title)
    for name, text in lines.items():
      print(f'  {name:20} {text}')


def _versions() -> Iterator[tuple[str, str]]:
  yield 'python', f'{platform.python_version()} on {platform.platform()}'
  for name in ('vidleak_jax', *_LIBRARIES):
    try:
      yield name, metadata.version(name)
    except metadata.PackageNotFoundError:
      yield name, f'not installed: pip install {name}'


def _devices() -> Iterator[tuple[str, str]]:
  import jax
  try:
    devices = jax.devices()
  except RuntimeError as error:  # a plugin without its accelerator
    yield 'none', str(error).partition('\n')[0]
    return
  yield 'backend', jax.default_backend()
  for device in devices:
    yield f'device {device.id}', device.device_kind
  if jax.default_backend() == 'cpu':
    yield 'cores', f'{len(host.available_cores())}, each of them a device'
    for extra, module in _ACCELERATORS.items():
      if util.find_spec(module) is None:
        yield extra, f'not installed: pip install "vidleak_jax[{extra}]"'


def _extras() -> Iterator[tuple[str, str]]:
  for extra in optional.EXTRAS:
    found = optional.installed(extra)
    text = ', '.join(f'{name} {version}' for name, version in found.items()
                     if version)
    absent = [name for name, version in found.items() if not version]
    if absent:
      text = (f'{", ".join(absent)} not installed: pip install '
              f'"vidleak_jax[{extra}]"')
    yield extra, text


def _files() -> Iterator[tuple[str, str]]:
  import vidleak_jax
  cache = os.environ.get('XDG_CACHE_HOME', Path.home() / '.cache')
  yield 'package', str(Path(vidleak_jax.__file__).parent)
  yield 'cache', str(Path(cache) / 'vidleak_jax')
