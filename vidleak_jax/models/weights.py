"""Import of published weights into a network's params.

Reads safetensors, npz, and torch's .pth / .th files (through torch's unpickler
that builds tensors only). `convert`, run once where torch is, spares torch
everywhere else.
"""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vidleak_jax import files
from vidleak_jax.types import Params, UserError

Names = tuple[tuple[str, str | Callable], ...]  # of re.sub, in turn

_LEAVES = {'bias': 'bias', 'running_mean': 'mean', 'running_var': 'var'}


class Report(NamedTuple):
  """Which weights came from the file."""
  loaded: tuple[str, ...]   # paths in the params, 'block0/norm1/scale'
  missing: tuple[str, ...]  # params that the file does not have
  unused: tuple[str, ...]   # keys of the file that no param takes


def load(
    params: Params, path: str | os.PathLike, names: Names,
    skip: tuple[str, ...] = (),
) -> tuple[Params, Report]:
  """The params with all weights that `path` holds for them.

  Args:
    params: of the network's `init`.
    path: a .safetensors, .npz, .pth or .th file.
    names: from the file's keys to paths; keys that are already paths in the
      params ('block0/norm1/scale') need none.
    skip: first components of params to leave as they are, such as 'head'.

  Raises:
    UserError: for a file that cannot be read, that holds nothing for these
      params, or a weight of the wrong shape.
  """
  return fill(params, read(path), names, skip)


def fill(
    params: Params, tensors: dict[str, np.ndarray], names: Names,
    skip: tuple[str, ...] = (),
) -> tuple[Params, Report]:
  """As `load`, from tensors in memory; fused attention is taken apart."""
  tensors = split_qkv(tensors)
  leaves, treedef = jax.tree_util.tree_flatten_with_path(params)
  targets = {_join(path): leaf for path, leaf in leaves}
  found, unused = {}, []
  for key, tensor in tensors.items():
    path = key if key in targets else rename(key, tensor.ndim, names)
    if path not in targets or path.split('/')[0] in skip:
      unused.append(key)
    else:
      found[path] = _fit(key, tensor, path, targets[path], path == key)
  if not found:
    raise UserError(
        f'None of the {len(tensors)} tensors fits this network: the file has '
        f'{sorted(tensors)[:3]}..., the network {sorted(targets)[:3]}... '
        'Choose the network and preset that the file was made for.')
  filled = [found.get(path, leaf) for path, leaf in targets.items()]
  missing = tuple(path for path in targets if path not in found)
  return treedef.unflatten(filled), Report(tuple(found), missing, tuple(unused))


def require_all(report: Report, path: str | os.PathLike) -> None:
  """Raises UserError where the file left weights of the network out."""
  if report.missing:
    raise UserError(
        f'{Path(path).name} lacks {len(report.missing)} weights, such as '
        f'{report.missing[0]!r}. It has {list(report.unused)[:3]} instead: '
        'choose the network that the file was made for.')


def rename(key: str, ndim: int, names: Names) -> str:
  """The path in the params of torch's `key` with `ndim` axes."""
  for pattern, replacement in names:
    key = re.sub(pattern, replacement, key)
  *module, leaf = key.split('.')
  if leaf == 'weight':
    leaf = 'kernel' if ndim > 1 else 'scale'
  path = '/'.join([*module, _LEAVES.get(leaf, leaf)])
  return f'batch_stats/{path}' if leaf.startswith('running_') else path


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """The tensors of a file, float32, by the file's own keys.

  Raises:
    UserError: for a missing, broken or truncated file, an unknown kind, or
      torch's kind without torch.
  """
  path = Path(path)
  if not path.is_file():
    raise UserError(f'There is no weights file {path}.')
  readers = {'.safetensors': _read_safetensors, '.npz': _read_npz,
             **dict.fromkeys(('.pth', '.th', '.pt'), _read_torch)}
  if path.suffix not in readers:
    raise UserError(f'Weights come as .safetensors, .npz, .pth, .pt or .th; '
                    f'got {path.name!r}.')
  try:
    tensors = readers[path.suffix](path)
  except UserError:
    raise
  except Exception as error:  # each library has errors of its own
    raise UserError(
        f'{path} is broken or truncated ({type(error).__name__}: {error}). '
        'Fetch it anew.') from error
  return {key.removeprefix('module.'): np.asarray(tensor, np.float32)
          for key, tensor in tensors.items()
          if not key.endswith('num_batches_tracked')}


def save(path: str | os.PathLike, params: Params) -> None:
  """Writes a .safetensors file that `load` reads back without names."""
  from safetensors.numpy import save_file
  leaves = jax.tree_util.tree_flatten_with_path(params)[0]
  with files.replacing(path) as partial:
    save_file({_join(entries): np.ascontiguousarray(leaf)
               for entries, leaf in leaves}, partial)


def convert(source: str | os.PathLike, target: str | os.PathLike) -> None:
  """Copies the tensors of `source`, of any kind, to a .safetensors file."""
  from safetensors.numpy import save_file
  tensors = {key: np.ascontiguousarray(tensor)
             for key, tensor in read(source).items()}
  with files.replacing(target) as partial:
    save_file(tensors, partial)


def _read_safetensors(path):
  from safetensors.numpy import load_file
  return load_file(path)


def _read_npz(path):
  with np.load(path, allow_pickle=False) as archive:
    return dict(archive)


def _read_torch(path):
  try:
    import torch
  except ImportError as error:
    raise UserError(
        f'{path.name} is a torch file, and torch is missing. Get it by pip '
        'install "vidleak_jax[torch]", or convert the file where torch is: '
        'python -c "from vidleak_jax.'
        f'models.weights import convert; convert(\'{path.name}\', '
        f'\'{path.stem}.safetensors\')"') from error
  content = torch.load(path, map_location='cpu', weights_only=True)
  for wrapper in ('state_dict', 'model', 'params_ema', 'params'):
    content = content.get(wrapper, content)
  return {key: value.float().numpy() for key, value in content.items()
          if isinstance(value, torch.Tensor)}


def _fit(key, tensor, path, target, is_native):
  """Torch's axes to ours: channels last, inputs before outputs."""
  if not is_native and path.endswith('/kernel'):
    tensor = np.transpose(tensor, (*range(2, tensor.ndim), 1, 0))
    if target.ndim == 2:  # a convolution that reads its input once: dense
      tensor = tensor.reshape(-1, tensor.shape[-1])
  if tensor.shape != target.shape:
    raise UserError(
        f'The weight {key!r} has shape {tensor.shape} in our axes, but the '
        f'network\'s {path!r} has {target.shape}. Choose the preset, number of '
        'classes and clip shape that the file was made for, or skip '
        f'{path.split("/")[0]!r}.')
  return jnp.asarray(tensor, target.dtype)


def _join(path):
  return '/'.join(entry.key for entry in path)


def split_qkv(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns tensors with query, key and value apart.

  Some name them together, 'qkv' or 'in_proj'.
  """
  apart = {}
  for key, tensor in tensors.items():
    key = key.replace('.in_proj_', '.qkv.')
    if '.qkv.' not in key:
      apart[key] = tensor
      continue
    for part, name in zip(np.split(tensor, 3), ('query', 'key', 'value')):
      apart[key.replace('.qkv.', f'.{name}.')] = part
  return apart
