"""Every generator under one signature, and its weights on disk."""

import os
import re
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vidleak_jax import files
from vidleak_jax.superres import weights
from vidleak_jax.superres.clip_net import ClipNet
from vidleak_jax.superres.compact import SRVGGNetCompact
from vidleak_jax.superres.rrdb import RRDBNet
from vidleak_jax.superres.spec import NetworkSpec
from vidleak_jax.types import Array, Params, PRNGKey, UserError, pick

MODULES = {'clip': ClipNet, 'rrdb': RRDBNet, 'compact': SRVGGNetCompact}


class Network(NamedTuple):
  """A generator as a tuple of pure functions.

  `apply(params, windows, noise)` takes each frame with its neighbours, windows
  [B, frames, H, W, C] in [0, 1], and the standard deviation [B] of their errors
  (which only ClipNet heeds); it gives [B, scale H, scale W, C], not clipped.
  """
  init: Callable[[PRNGKey], Params]
  apply: Callable[[Params, Array, Array], Array]
  scale: int
  frames: int
  module: nn.Module


def build(name: str, **options) -> Network:
  """A network by its name in `MODULES`, with its module's fields."""
  return wrap(pick(MODULES, name, 'super-resolution network')(**options))


def from_spec(spec: NetworkSpec) -> Network:
  """Returns the network that a spec describes.

  Raises:
    UserError: for a field that this network does not have.
  """
  module = MODULES[spec.name]
  given = {k: v for k, v in spec.to_dict().items()
           if v is not None and k != 'name'}
  for field in given:
    if field not in module.__dataclass_fields__:
      raise UserError(f'The network {spec.name} has no field {field!r}; set '
                      f'network.{field} to None.')
  return wrap(module(**given))


def load(path: str | os.PathLike) -> tuple[Network, Params]:
  """As `weights.load`."""
  module, params = weights.load(path)
  return wrap(module), params


def save(path: str | os.PathLike, network: Network, params: Params) -> None:
  """Writes safetensors in torch's axes and BasicSR's names."""
  from safetensors.numpy import save_file
  tensors = {}
  for entries, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
    *layers, kind = (entry.key for entry in entries)
    array = np.asarray(leaf, np.float32)
    if kind == 'kernel':
      array = array.transpose(3, 2, 0, 1)
    name = '.'.join([*layers, 'bias' if kind == 'bias' else 'weight'])
    if isinstance(network.module, SRVGGNetCompact):
      name = re.sub(r'^(conv|act)_(\d+)', lambda m:
                    f'body.{2 * int(m[2]) + (m[1] == "act")}', name)
    name = re.sub(r'^body_', 'body.', name)
    tensors[name] = np.ascontiguousarray(array)
  with files.replacing(path) as partial:
    save_file(tensors, partial)


def wrap(module: nn.Module) -> Network:
  """The module as a `Network`; those that see one frame get the middle one."""
  if isinstance(module, ClipNet):
    frames, call = module.frames, module.apply
  else:
    frames = 1
    call = lambda variables, windows, noise: module.apply(  # noqa: E731
        variables, windows[:, windows.shape[1] // 2])

  def apply(params, windows, noise):
    return call({'params': params}, windows, noise)

  def init(key):
    window = jnp.zeros((1, frames, 8, 8, module.channels))
    example = (window, jnp.zeros(1)) if frames > 1 else (window[:, 0],)
    return jax.jit(module.init)(key, *example)['params']

  return Network(init, apply, module.scale, frames, module)


def interpolate(a: Params, b: Params, share: float) -> Params:
  """Between two params of one network: 0 gives a, 1 gives b (1809.00219)."""
  return jax.tree.map(lambda x, y: (1 - share) * x + share * y, a, b)
