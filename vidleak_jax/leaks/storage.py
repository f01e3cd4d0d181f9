"""A leak on disk: `leak.safetensors` (arrays) and `leak.json` (public facts).

Together they are exactly what the attacker was given; an attack needs nothing
else, no data set in particular. docs/leak_format.md describes both.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vidleak_jax import files, trees
from vidleak_jax.types import (
    Array,
    Leak,
    Params,
    PublicInfo,
    Round,
    Row,
    UserError,
    pick,
)

_NAME = 'leak.safetensors'
# As safetensors names them; its own loader for NumPy lacks bfloat16.
_DTYPES = {'F64': np.float64, 'F32': np.float32, 'F16': np.float16,
           'BF16': jnp.dtype(jnp.bfloat16), 'I64': np.int64, 'I32': np.int32,
           'I16': np.int16, 'I8': np.int8, 'U64': np.uint64, 'U32': np.uint32,
           'U16': np.uint16, 'U8': np.uint8}


def save(folder: Path, leak: Leak) -> Path:
  """Writes both files; the arrays last, for they say that the leak is whole.

  Returns:
    The path of the arrays.
  """
  from safetensors.numpy import save_file
  arrays: dict[str, Array] = {}
  for i, each in enumerate(leak.rounds()):
    for name, tree in each._asdict().items():
      arrays |= {f'{_prefix(i)}{name}/{k}': v
                 for k, v in trees.flatten(tree).items()}
  for name in ('labels', 'references'):
    if getattr(leak, name) is not None:
      arrays[name] = getattr(leak, name)
  folder.mkdir(parents=True, exist_ok=True, mode=0o700)
  files.write_json(folder / 'leak.json', _facts(leak.public))
  with files.replacing(folder / _NAME) as partial:
    save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, partial)
  return folder / _NAME


def load(path: str | Path) -> Leak:
  """Returns a leak from its files.

  Args:
    path: `leak.safetensors`, with `leak.json` beside it, or their folder.

  Raises:
    UserError: for missing, torn or incomplete files, for NaN or infinity, and
      for facts that are not allowed: naming the field.
  """
  path = Path(path)
  if path.is_dir():
    path = path / _NAME
  facts = path.with_suffix('.json')
  for file in (path, facts):
    if not file.is_file():
      raise UserError(f'No leak at {file}. Give the path of a {_NAME} that has '
                      'its leak.json beside it.')
  return _read(path.read_bytes(), facts.read_bytes(), str(path))


def pack(folder: Path) -> bytes:
  """Returns both files of a folder in one, for other processes."""
  facts = (folder / 'leak.json').read_bytes()
  size = len(facts).to_bytes(8, 'little')
  return size + facts + (folder / _NAME).read_bytes()


def unpack(content: bytes) -> Leak:
  """Returns the leak of `pack`, as `load` would read it."""
  size = 8 + int.from_bytes(content[:8], 'little')
  return _read(content[size:], content[8:size], 'the leak of the first process')


def check(leak: Leak, params: Params) -> None:
  """Holds a leak's parameters against those of the victim it names.

  Args:
    leak: as loaded.
    params: the victim's, arrays or shapes.

  Raises:
    UserError: naming the first leaves that do not fit.
  """
  expected = {k: v.shape for k, v in trees.flatten(params).items()}
  actual = {k: v.shape for k, v in trees.flatten(leak.params).items()}
  wrong = [f'{name}: leak {actual.get(name, "absent")}, victim '
           f'{expected.get(name, "absent")}'
           for name in sorted(expected.keys() | actual.keys())
           if expected.get(name) != actual.get(name)]
  if wrong:
    more = ' ...' * (len(wrong) > 4)
    raise UserError('The leak\'s parameters do not fit the victim named in '
                    f'leak.json: {"; ".join(wrong[:4])}{more}.')
  for name, leaf in trees.flatten(leak.params).items():
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
      raise UserError(f'params/{name} of the leak is {leaf.dtype}; gradients '
                      'need floating point numbers.')


def _facts(public: PublicInfo) -> Row:
  """What leak.json holds: all fields, those of the victim that are given."""
  facts = public.to_dict()
  if public.victim:
    facts['victim'] = {name: value for name, value in facts['victim'].items()
                       if value is not None}
  return facts


def _read(content: bytes, facts: bytes, source: str) -> Leak:
  stored = arrays(content, source)
  try:
    public = PublicInfo.from_dict(_json(facts, source))
  except TypeError as error:  # a field without a default is absent
    raise UserError(f'The leak.json of {source} lacks a field: '
                    f'{error}.') from error
  except UserError as error:
    raise UserError(f'The leak.json of {source}: {error}') from error
  names = [f'{_prefix(i)}{part}' for i in range(public.federated.num_rounds)
           for part in Round._fields]
  groups: dict[str, dict[str, Array]] = {name: {} for name in names}
  for name, array in stored.items():
    group = next((g for g in names if name.startswith(f'{g}/')), None)
    if group:
      groups[group][name.removeprefix(f'{group}/')] = array
    elif name not in ('labels', 'references'):
      raise UserError(
          f'{source} has an array {name!r}; allowed are '
          f'{", ".join(f"{g}/..." for g in names[:4])}'
          f'{", ..." * (len(names) > 4)}, labels and references. '
          'federated.num_rounds says how many rounds there are.')
  for name in names:
    if not groups[name]:
      raise UserError(f'{source} holds no {name}/... arrays.')
  trees_of = [trees.nest(groups[name]) for name in names]
  rounds = [Round(*pair) for pair in zip(trees_of[::2], trees_of[1::2])]
  for i, each in enumerate(rounds):
    if _axes(each.update) == _axes(each.params):
      raise UserError(
          f'The {_prefix(i)}update of {source} has no first axis of updates; '
          f'give each {_prefix(i)}update/... array the shape [updates, ...].')
  try:
    leak = Leak(*rounds[0], public, stored.get('labels'),
                stored.get('references'), tuple(rounds[1:]))
    _check_clips(leak)
  except UserError as error:
    raise UserError(f'{source}: {error}') from error
  return leak


def _prefix(number: int) -> str:
  """What the arrays of a round begin with; those of the first with nothing."""
  return f'round{number}/' if number else ''


def _check_clips(leak: Leak) -> None:
  """Whether updates make whole clips, and references belong to these."""
  public = leak.public
  frames = leak.num_updates * public.batch_size * public.clip_shape[0]
  clips, left = divmod(frames, public.frames_per_clip)
  if left:
    raise UserError(
        f'num_frames is {public.num_frames}, but {leak.num_updates} updates of '
        f'batch_size {public.batch_size} and clip_shape {public.clip_shape} '
        f'hold {frames} frames, which is no number of whole clips.')
  if leak.references is None:
    return
  shape = leak.references.shape
  if (shape[0] != clips or shape[4] != public.clip_shape[3]
      or shape[2] != shape[3]):
    raise UserError(
        f'references have shape {shape}; they must be square frames of '
        f'{public.clip_shape[3]} colours for each of {clips} clips.')
  if public.num_reference_frames not in (0, shape[1]):
    raise UserError(f'num_reference_frames is {public.num_reference_frames}; '
                    f'references have {shape[1]} for each clip.')


def _axes(tree: Params) -> list[int]:
  return [leaf.ndim for leaf in jax.tree.leaves(tree)]


def _json(facts: bytes, source: str) -> Mapping[str, Any]:
  def refuse(constant):
    raise ValueError(f'{constant} is no number of JSON')
  try:
    content = json.loads(facts, parse_constant=refuse)
  except (ValueError, RecursionError) as error:
    raise UserError(f'The leak.json of {source} is torn or no JSON: '
                    f'{error}') from error
  if not isinstance(content, dict):
    raise UserError(f'The leak.json of {source} must be one object of fields.')
  return content


def arrays(content: bytes, source: str) -> dict[str, np.ndarray]:
  """Returns the arrays of a safetensors file's content by name.

  Raises:
    UserError: for a torn file, or a type that NumPy lacks.
  """
  from safetensors import SafetensorError, deserialize
  leaves = {}
  try:
    for name, entry in deserialize(content):
      kind = pick(_DTYPES, entry['dtype'], f'type of {name}')
      leaves[name] = np.frombuffer(
          entry['data'], kind).reshape(entry['shape'])
  except UserError as error:
    raise UserError(f'{source}: {error}') from error
  except (SafetensorError, ValueError, KeyError, TypeError, OverflowError,
          AttributeError, MemoryError, RecursionError) as error:
    raise UserError(f'{source} is torn or no safetensors file: '
                    f'{type(error).__name__}: {error}') from error
  return leaves
