"""Arrays by name from any file that a training framework writes.

Nothing is unpickled but torch's own files, through its loader that builds
tensors only.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vidleak_jax import optional, trees
from vidleak_jax.leaks import storage
from vidleak_jax.types import UserError

Arrays = dict[str, np.ndarray]

_COUNTERS = ('num_batches_tracked',)  # of torch's BatchNorm: no weights
_WRAPPERS = ('state_dict', 'model_state_dict', 'gradients', 'grads')
_ALONE = ('model', 'params', 'weights')  # wrappers, where nothing is beside
_SUFFIXES = ('.safetensors', '.npz', '.pt', '.pth', '.th', '.msgpack')


def read(path: str | Path) -> Arrays:
  """Returns the arrays of a file by its own names.

  Args:
    path: .safetensors, .npz, torch's .pt or .pth, Flax's .msgpack, or the
      folder of an Orbax checkpoint. An .npz of a list, with arr_0, arr_1, ...,
      keeps those names.

  Raises:
    UserError: for a missing, broken or unknown file, or torch's kind without
      torch.
  """
  path = Path(path)
  if not path.exists():
    raise UserError(f'There is no file {path}. Give weights or a gradient as '
                    f'{", ".join(_SUFFIXES)}, or an Orbax checkpoint.')
  readers = {'.safetensors': _safetensors, '.npz': _npz, '.msgpack': _msgpack,
             **dict.fromkeys(('.pt', '.pth', '.th'), _torch)}
  if path.is_dir():
    reader = _orbax
  elif path.suffix in readers:
    reader = readers[path.suffix]
  else:
    raise UserError(f'{path.name} is of no known kind; allowed are '
                    f'{", ".join(_SUFFIXES)}, and folders of Orbax.')
  try:
    return named(reader(path))
  except UserError:
    raise
  except Exception as error:  # each library has errors of its own
    raise UserError(f'{path} is broken or truncated ({type(error).__name__}: '
                    f'{error}). Write it anew.') from error


def named(content: Any) -> Arrays:
  """Returns arrays by name from what a framework holds in memory.

  Args:
    content: a mapping or tree of arrays or tensors, NVFlare's dict of arrays, a
      torch module (its parameters and buffers), Flower's `Parameters` or
      `ArrayRecord`, or a list of arrays, which are named arr_0, arr_1, ...

  Raises:
    UserError: for anything else.
  """
  if hasattr(content, 'state_dict') and callable(content.state_dict):
    content = content.state_dict()
  if hasattr(content, 'tensors') and hasattr(content, 'tensor_type'):
    content = [np.load(io.BytesIO(tensor), allow_pickle=False)
               for tensor in content.tensors]  # Flower's `Parameters`
  if isinstance(content, Mapping):
    content = {str(key): value for key, value in content.items()}
    for key, inner in content.items():
      if isinstance(inner, Mapping) and (
          key in _WRAPPERS or (key in _ALONE and len(content) == 1)):
        return named(inner)
    if set(content) == {'params', 'batch_stats'}:  # Flax's variables
      content = {**content['params'], 'batch_stats': content['batch_stats']}
    return _of_mapping(content)
  if isinstance(content, Sequence) and not isinstance(content, str | bytes):
    return {f'arr_{i}': _array(f'arr_{i}', value)
            for i, value in enumerate(content)}
  raise UserError(f'Arrays come as a mapping of names, or a list; got '
                  f'{type(content).__name__}.')


def is_list(arrays: Mapping[str, Any]) -> bool:
  """Whether arrays were a list, without names of their own."""
  return set(arrays) == {f'arr_{i}' for i in range(len(arrays))}


def _of_mapping(content) -> Arrays:
  leaves: Arrays = {}
  for key, value in content.items():
    if key.rpartition('.')[2] in _COUNTERS or value is None:
      continue
    if isinstance(value, Mapping):
      leaves |= {f'{key}/{name}': leaf
                 for name, leaf in _of_mapping(value).items()}
    else:
      array = _array(key, value)
      if array.dtype == np.float32:
        leaves[key] = array
  return leaves


def _array(name, value) -> np.ndarray:
  """A float32 array of anything array-like; integers stay what they are."""
  if hasattr(value, 'detach'):  # a torch tensor
    value = value.detach().cpu()
    value = value.float().numpy() if value.is_floating_point() else (
        value.numpy())
  elif hasattr(value, 'numpy') and callable(value.numpy):
    value = value.numpy()  # Flower's `Array`
  array = np.asarray(value)
  if array.dtype == object:
    raise UserError(f'{name} is no array of numbers, but '
                    f'{type(value).__name__}.')
  whole = array.dtype.kind in 'iub'
  return array if whole else array.astype(np.float32)


def _safetensors(path):
  return storage.arrays(path.read_bytes(), str(path))


def _npz(path):
  with np.load(path, allow_pickle=False) as archive:
    return dict(archive)


def _torch(path):
  torch = optional.load('torch')
  return torch.load(path, map_location='cpu', weights_only=True)


def _msgpack(path):
  from flax import serialization
  return trees.flatten(serialization.msgpack_restore(path.read_bytes()))


def _orbax(path):
  from vidleak_jax.runtime import checkpoint
  return trees.flatten(checkpoint.read_foreign(path))
