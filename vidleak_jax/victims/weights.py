"""`vidleak_jax.weights` for victims, whose files may fuse query, key, value."""

import os

import numpy as np

from vidleak_jax import weights
from vidleak_jax.types import Params
from vidleak_jax.weights import (  # noqa: F401
    Names,
    Report,
    convert,
    read,
    rename,
    require_all,
)


def load(
    params: Params, path: str | os.PathLike, names: Names,
    skip: tuple[str, ...] = (),
) -> tuple[Params, Report]:
  """As `vidleak_jax.weights.load`, with fused attention taken apart."""
  return fill(params, read(path), names, skip)


def fill(
    params: Params, tensors: dict[str, np.ndarray], names: Names,
    skip: tuple[str, ...] = (),
) -> tuple[Params, Report]:
  """As `vidleak_jax.weights.fill`, with fused attention taken apart."""
  return weights.fill(params, _split_qkv(tensors), names, skip)


def _split_qkv(tensors):
  """Query, key and value, which ours have apart, from 'qkv' or 'in_proj'."""
  apart = {}
  for key, tensor in tensors.items():
    key = key.replace('.in_proj_', '.qkv.')
    if '.qkv.' not in key:
      apart[key] = tensor
      continue
    for part, name in zip(np.split(tensor, 3), ('query', 'key', 'value')):
      apart[key.replace('.qkv.', f'.{name}.')] = part
  return apart
