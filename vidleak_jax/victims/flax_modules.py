"""Victims from Flax modules, linen or nnx: how each is told not to train."""

import inspect
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vidleak_jax.types import Params, UserError, Victim
from vidleak_jax.victims.losses import cross_entropy

_STATISTICS = 'batch_stats'
# Arguments by which Flax modules are told that they do not train, and the value
# that says so.
_MODES = {'deterministic': True, 'train': False, 'training': False,
          'is_training': False, 'use_running_average': True}


def from_linen(
    module: nn.Module, clip_shape: tuple[int, ...], num_classes: int
) -> Victim:
  """Returns a victim from a linen module; its head is not looked for."""
  still, training = _modes(type(module).__call__)

  def init(key):
    variables = module.init(key, jnp.zeros((1, *clip_shape)), **still)
    stats = variables.get(_STATISTICS)
    return variables['params'] | ({_STATISTICS: stats} if stats else {})

  def logits(params, clips):
    return module.apply(split_stats(params), clips, **still)

  def loss(params, clips, labels, key=None):
    if key is None or not training:
      return cross_entropy(logits(params, clips), labels)
    scores, _ = module.apply(  # BatchNorm that is told to train would move
        split_stats(params), clips, rngs={'dropout': key},
        mutable=[_STATISTICS], **training)
    return cross_entropy(scores, labels)

  def statistics(params, clips):
    _, state = module.apply(split_stats(params), clips, mutable=_STATISTICS,
                            **still)
    return params | state

  return Victim(jax.jit(init), loss, clip_shape, num_classes, logits,
                statistics=statistics)


def from_nnx(
    module: Any, clip_shape: tuple[int, ...], num_classes: int
) -> Victim:
  """Returns a victim from an nnx module; its head is not looked for.

  Raises:
    UserError: for anything but an nnx module.
  """
  from flax import nnx
  if not isinstance(module, nnx.Module):
    raise UserError(
        f'from_flax takes a linen or nnx module, got {type(module).__name__}. '
        'For a function use from_loss.')
  module.eval()  # dropout off, BatchNorm on its running statistics
  graph, learned, rest = nnx.split(module, nnx.Param, ...)
  params = nnx.to_pure_dict(learned)

  def logits(params, clips):
    state = jax.tree.map(lambda x: x, learned)
    nnx.replace_by_pure_dict(state, params)
    return nnx.merge(graph, state, rest)(clips)

  def loss(params, clips, labels, key=None):
    if key is not None:
      raise UserError('An nnx module is attacked with dropout off: its random '
                      'state lives inside. Leave the dropout key out.')
    return cross_entropy(logits(params, clips), labels)

  return Victim(lambda key: params, loss, clip_shape, num_classes, logits)


def split_stats(params: Params) -> dict[str, Params]:
  """Returns a victim's params as collections; statistics are constants."""
  params = dict(params)
  stats = jax.lax.stop_gradient(params.pop(_STATISTICS, {}))
  return {'params': params, _STATISTICS: stats}


def _modes(call) -> tuple[dict[str, bool], dict[str, bool]]:
  """How a module is told that it does not train, and that it drops out."""
  names = [name for name in inspect.signature(call).parameters
           if name in _MODES]
  # Statistics stay running ones even where dropout is on.
  dropout = [name for name in names if name != 'use_running_average']
  return ({name: _MODES[name] for name in names},
          {name: not _MODES[name] for name in dropout} | {
              name: _MODES[name] for name in names if name not in dropout}
          if dropout else {})
