"""What the dense layers of a network are given, read while it runs."""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import numpy as np

from vidleak_jax.types import Array, Params, UserError

Path = tuple[str, ...]  # of a layer in the params

_NO_TOKENS = (
    'This closed form needs a video transformer: a network whose first dense '
    'layer sees every pixel once, as patches. Choose attack.name=ig.')


class Reading(NamedTuple):
  """Of one clip; layers that share an input stand under all their paths."""
  tokens: Array  # [N, D] the patch embedding's output with positions added
  inputs: dict[tuple[Path, ...], Array]  # [n, d] each; the embedding's first


class Tiling(NamedTuple):
  """How pixels become patches: `black + slope * clip.ravel()[order]`."""
  embedding: Path
  order: np.ndarray  # [N, P] int
  black: np.ndarray  # [N, P]
  slope: np.ndarray  # [N, P]


def read(
    logits: Callable[[Params, Array], Array], params: Params, clip: Array
) -> Reading:
  """Runs a network on a clip [T, H, W, C].

  Raises:
    UserError: it has no layer that takes tokens.
  """
  seen = []    # (argument, paths) of the dense layers, in order
  tokens = []  # shape of the embedding's output, then the tokens themselves

  def watch(call, args, kwargs, context):
    module = context.module
    if context.method_name != '__call__':
      return call(*args, **kwargs)
    if len(tokens) == 1:
      tokens.extend([x for x in map(_rows, args) if x.shape == tokens[0]][:1])
    result = call(*args, **kwargs)
    if isinstance(module, nn.Dense):
      paths = [paths for argument, paths in seen if argument is args[0]]
      if paths:
        paths[0].append(module.path)
      else:
        seen.append((args[0], [module.path]))
      if not tokens:
        tokens.append(_rows(result).shape)
    return result

  with nn.intercept_methods(watch):
    logits(params, clip[None])
  if len(tokens) < 2:
    raise UserError(_NO_TOKENS)
  return Reading(tokens[1], {tuple(paths): _rows(x) for x, paths in seen})


def tiling(
    logits: Callable[[Params, Array], Array], params: Params,
    shape: tuple[int, ...],
) -> Tiling:
  """How a network cuts clips of a shape into patches. Call it in float64.

  Raises:
    UserError: its first dense layer does not see every pixel once.
  """
  ramp = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
  readings = [read(logits, params, clip).inputs
              for clip in (np.zeros(shape), np.ones(shape), ramp)]
  embedding = next(iter(readings[0]))
  black, white, ramp = (np.asarray(each[embedding]) for each in readings)
  slope = white - black
  with np.errstate(divide='ignore', invalid='ignore'):
    order = np.nan_to_num(np.rint((ramp - black) / slope)).astype(int)
  if not np.array_equal(np.sort(order, axis=None), np.arange(np.prod(shape))):
    raise UserError(_NO_TOKENS)
  return Tiling(embedding[0], order, black, slope)


def _rows(x):
  return x.reshape(-1, x.shape[-1])
