"""A leak on disk: `leak.safetensors` (arrays) and `leak.json` (public facts).

Together they are exactly what the attacker was given; an attack needs nothing
else, no data set in particular.
"""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vidleak_jax import files
from vidleak_jax.types import Leak, Params, UserError

# Facts without which an attack cannot be built.
REQUIRED = ('victim', 'clip_shape', 'num_frames', 'batch_size', 'federated')


def save(folder: Path, leak: Leak, knowledge: dict[str, Any]) -> None:
  """Writes both files; the arrays last, for they say that the leak is whole."""
  from safetensors.numpy import save_file
  arrays = _flatten('params', leak.params) | _flatten('update', leak.update)
  if leak.labels is not None:
    arrays['labels'] = np.asarray(leak.labels)
  if leak.references is not None:
    arrays['references'] = np.asarray(leak.references)
  files.write_json(folder / 'leak.json', knowledge)
  with files.replacing(folder / 'leak.safetensors') as partial:
    save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, partial)


def load(path: Path) -> tuple[Leak, dict[str, Any]]:
  """Reads a leak.

  Args:
    path: `leak.safetensors`, with `leak.json` beside it, or their folder.

  Raises:
    UserError: for missing, torn or incomplete files, and for NaN or Inf.
  """
  if path.is_dir():
    path = path / 'leak.safetensors'
  facts = path.with_suffix('.json')
  for file in (path, facts):
    if not file.is_file():
      raise UserError(f'No leak at {file}. Give the path of a '
                      'leak.safetensors that has its leak.json beside it.')
  return _read(path.read_bytes(), facts.read_bytes(), path)


def pack(folder: Path) -> bytes:
  """Both files of a folder in one, for other processes."""
  facts = (folder / 'leak.json').read_bytes()
  size = len(facts).to_bytes(8, 'little')
  return size + facts + (folder / 'leak.safetensors').read_bytes()


def unpack(content: bytes) -> tuple[Leak, dict[str, Any]]:
  """The inverse of `pack`, as `load` would read it."""
  size = 8 + int.from_bytes(content[:8], 'little')
  return _read(content[size:], content[8:size], 'the leak of the first process')


def _read(arrays, facts, source):
  from safetensors import SafetensorError
  from safetensors.numpy import load
  try:
    arrays, knowledge = load(arrays), json.loads(facts)
  except (SafetensorError, json.JSONDecodeError) as error:
    raise UserError(f'{source} or its leak.json is torn: {error}') from error
  missing = [key for key in REQUIRED if key not in knowledge]
  if missing:
    raise UserError(f'The leak.json of {source} lacks {missing}; it needs '
                    f'{list(REQUIRED)}.')
  params, update = _nest('params', arrays), _nest('update', arrays)
  if not params or not update:
    raise UserError(f'{source} holds no params/... or no update/... arrays.')
  _check_finite(source, arrays)
  return Leak(params, update, arrays.get('labels'),
              arrays.get('references')), knowledge


def check(leak: Leak, params: Params) -> None:
  """Holds a leak against the shapes of the victim it names.

  Args:
    leak: as loaded.
    params: the victim's, arrays or shapes.

  Raises:
    UserError: naming the first leaves that do not fit.
  """
  expected = {k: v.shape for k, v in _flatten('', params).items()}
  found = {k: v.shape for k, v in _flatten('', leak.params).items()}
  sent = {k: v.shape[1:] for k, v in _flatten('', leak.update).items()}
  for what, shapes in (('params', found), ('update', sent)):
    wrong = [f'{name.strip("/")}: leak {shapes.get(name, "absent")}, '
             f'victim {expected.get(name, "absent")}'
             for name in sorted(expected.keys() | shapes.keys())
             if expected.get(name) != shapes.get(name)]
    if wrong:
      raise UserError(
          f'The leak\'s {what} do not fit the victim named in leak.json: '
          f'{"; ".join(wrong[:4])}{" ..." if len(wrong) > 4 else ""}.')


def _check_finite(source, arrays):
  bad = [name for name, array in arrays.items()
         if array.dtype.kind == 'f' and not np.isfinite(array).all()]
  if bad:
    raise UserError(
        f'{source} has NaN or Inf in {", ".join(bad[:4])}. A gradient that '
        'overflowed cannot be inverted; share a finite one.')


def _flatten(prefix, tree):
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {'/'.join([prefix, *(key.key for key in path)]):
          leaf if isinstance(leaf, jax.ShapeDtypeStruct) else np.asarray(leaf)
          for path, leaf in leaves}


def _nest(prefix, arrays):
  tree: dict[str, Any] = {}
  for name, array in arrays.items():
    head, *path = name.split('/')
    if head != prefix:
      continue
    node = tree
    for key in path[:-1]:
      node = node.setdefault(key, {})
    node[path[-1]] = array
  return tree
