"""Writes docs/config.md, every field of a run, from the code.

  python docs/make_config.py
"""

import dataclasses
import typing
from collections.abc import Iterator
from pathlib import Path

from vidleak_jax.experiments.leaking import Audit
from vidleak_jax.options import Options

PAGE = Path(__file__).with_name('config.md')
_INTRO = """# Config fields

Written by `python docs/make_config.py`; do not edit. Any field is set by
`--config.FIELD=VALUE`; in Python `vl.Audit` has the same fields.
`vidleak list fields` prints them, `vidleak list configs` names the recipes that
set some of them. A field whose default is `None` keeps what the network, the
attack or the backend has by itself.
"""
_BOUNDS = {'low': 'at least', 'above': 'above', 'high': 'at most',
           'below': 'below'}


def page() -> str:
  """Returns the text of docs/config.md."""
  return '\n'.join([_INTRO, *_group(Audit(), '', 'Run')]).rstrip() + '\n'


def _group(options: Options, prefix: str, title: str) -> Iterator[str]:
  """The table of a group's own fields, then its groups."""
  fields = dataclasses.fields(options)
  hints = typing.get_type_hints(type(options))
  plain = [f for f in fields
           if not isinstance(getattr(options, f.name), Options)]
  yield from [f'## {title}', '']
  if plain:
    yield from ['| field | default | allowed | meaning |', '|---|---|---|---|']
  for field in plain:
    cells = (f'`{prefix}{field.name}`', f'`{getattr(options, field.name)!r}`',
             _allowed(field, hints[field.name]), field.metadata['help'])
    yield '| ' + ' | '.join(cell.replace('|', '\\|') for cell in cells) + ' |'
  yield ''
  for field in fields:
    value = getattr(options, field.name)
    if isinstance(value, Options):
      name = f'{prefix}{field.name}'
      yield from _group(value, f'{name}.', f'`{name}`')


def _allowed(field: dataclasses.Field, kind: typing.Any) -> str:
  """What a field allows, in words."""
  limits = field.metadata
  if limits['choices']:
    return ', '.join(f'`{name}`' for name in limits['choices'])
  bounds = [f'{word} {limits[name]:.10g}' for name, word in _BOUNDS.items()
            if limits[name] is not None]
  return ', '.join(bounds) or getattr(kind, '__name__', str(kind))


if __name__ == '__main__':
  PAGE.write_text(page())
