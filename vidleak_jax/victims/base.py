"""From a network to a `Victim`: Flax modules, or any loss function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vidleak_jax import trees
from vidleak_jax.models.layers import plain_layers
from vidleak_jax.models.repeat import stacked
from vidleak_jax.types import (
    Array,
    Layer,
    Params,
    Tokens,
    UserError,
    Victim,
)
from vidleak_jax.victims import flax_modules
from vidleak_jax.victims.introspection import (
    LayerGraph,
    introspect,
    structure,
    with_lowering,
)
from vidleak_jax.victims.introspection import tokens as tokens_lib
from vidleak_jax.victims.losses import cross_entropy


def from_flax(
    module: Any, clip_shape: Sequence[int], num_classes: int, *,
    head: Sequence[str] | None = None,
) -> Victim:
  """Returns a victim from a Flax module, linen or nnx.

  The module maps clips [B, T, H, W, C] in [0, 1] to logits [B, K]. It may take
  `deterministic` or `train` (any of the usual names); dropout then draws from
  the collection 'dropout'. BatchNorm uses its running statistics.

  Args:
    module: a linen module, or an nnx module that holds its parameters.
    clip_shape: (T, H, W, C).
    num_classes: K.
    head: path of the last dense layer in the params; None: it is looked for.

  Raises:
    UserError: for another kind of module, logits of another shape, or
      parameters that are not real numbers.

  >>> import flax.linen as nn, jax, vidleak_jax as vl
  >>> class Net(nn.Module):
  ...   @nn.compact
  ...   def __call__(self, clips):
  ...     x = nn.tanh(nn.Dense(16)(clips.reshape(clips.shape[0], -1)))
  ...     return nn.Dense(5)(x)
  >>> victim = vl.Victim.from_flax(Net(), (4, 8, 8, 3), 5)
  >>> victim.head
  ('Dense_1',)
  """
  clip_shape = _clip_shape(clip_shape)
  if isinstance(module, nn.Module):
    victim = flax_modules.from_linen(module, clip_shape, num_classes)
  else:
    victim = flax_modules.from_nnx(module, clip_shape, num_classes)
  shapes = jax.eval_shape(victim.init, jax.random.key(0))
  _check(victim, shapes, type(module).__name__)
  return victim.replace(head_path=tuple(head) if head else None)


def from_loss(
    loss: Callable[..., Array], params: Params, clip_shape: Sequence[int],
    num_classes: int, *, logits: Callable[[Params, Array], Array] | None = None,
    head: Sequence[str] | None = None,
) -> Victim:
  """Returns a victim from any loss function over a parameter tree.

  Attacks that only match gradients need no more; analytic attacks need the
  logits too.

  Args:
    loss: `(params, clips, labels) -> []`, differentiable in params and clips;
      labels are [B] integers, or [B, K] probabilities where labels are
      optimised.
    params: the parameters, a tree of arrays; `init` returns them.
    clip_shape: (T, H, W, C).
    num_classes: K.
    logits: `(params, clips) -> [B, K]`, where there are any.
    head: path of the last dense layer in params; None: it is looked for.

  >>> import jax.numpy as jnp, vidleak_jax as vl
  >>> def loss(params, clips, labels):
  ...   scores = clips.reshape(len(clips), -1) @ params['kernel']
  ...   return vl.victims.cross_entropy(scores, labels)
  >>> victim = vl.Victim.from_loss(loss, {'kernel': jnp.ones((48, 3))},
  ...                              (1, 4, 4, 3), 3)
  >>> victim.num_classes
  3
  """
  clip_shape = _clip_shape(clip_shape)
  takes_key = len(inspect.signature(loss).parameters) > 3

  def with_key(params, clips, labels, key=None):
    if takes_key:
      return loss(params, clips, labels, key)
    if key is not None:
      raise UserError('This loss takes no dropout key: give it a fourth '
                      'argument, or leave dropout off.')
    return loss(params, clips, labels)

  victim = Victim(
      init=lambda key: params, loss=with_key, clip_shape=clip_shape,
      num_classes=num_classes, logits=logits,
      head_path=tuple(head) if head else None if logits else find_head(
          params, num_classes))
  _check(victim, params, getattr(loss, '__name__', 'loss'))
  return victim


def from_torch(
    module: Any, clip_shape: Sequence[int], num_classes: int, *,
    layout: str = 'NCTHW',
) -> Victim:
  """Returns a victim from a `torch.nn.Module`, as it is in eval mode.

  The module is exported once and becomes a JAX function. Its parameters stand
  in a tree by torch's names, in Flax's layout: 'kernel' with the outputs last,
  'scale', 'bias'; BatchNorm's buffers stand under 'batch_stats'.

  Args:
    module: maps clips to logits [B, K].
    clip_shape: (T, H, W, C).
    num_classes: K.
    layout: of the module's input: NCTHW, NTCHW, NTHWC, or NCHW for one frame.

  Raises:
    UserError: without torch, for an operation that has no rule, or logits of
      another shape.
  """
  from vidleak_jax.victims.torch_import import flax_layout, torch_to_jax
  clip_shape = _clip_shape(clip_shape)
  own_logits, own_params = torch_to_jax(module, clip_shape, layout)
  params, back = flax_layout(own_params)

  def logits(params, clips):
    return own_logits(back(params), clips)

  def loss(params, clips, labels, key=None):
    if key is not None:
      raise UserError('A torch module is attacked in eval mode, with dropout '
                      'off. Leave the dropout key out.')
    return cross_entropy(logits(params, clips), labels)

  victim = Victim(lambda key: params, loss, clip_shape, num_classes, logits)
  _check(victim, params, type(module).__name__)
  return victim


def from_module(
    module: nn.Module,
    clip_shape: Sequence[int],
    num_classes: int,
    *,
    head: tuple[str, ...] = ('head',),
    chain: tuple[Layer, ...] | None = None,
    tokens: Tokens | None = None,
) -> Victim:
  """Returns a victim of the package's own, whose head is known."""
  victim = flax_modules.from_linen(module, tuple(clip_shape), num_classes)
  return victim.replace(
      head_path=head, chain=chain, patch_tokens=tokens, pack=stacked)


def find_head(params: Params, num_classes: int) -> tuple[str, ...] | None:
  """Returns the path of the only dense layer with K outputs, or None.

  It is all that can be known of a network of which only the loss is given.
  """
  shapes = {name: np.shape(leaf) for name, leaf in
            trees.flatten(params).items()}
  paths = [name.removesuffix('/kernel') for name, shape in shapes.items()
           if name.endswith('/kernel') and len(shape) == 2
           and shape[-1] == num_classes]
  return tuple(paths[0].split('/')) if len(paths) == 1 else None


def graph_of(victim: Victim) -> LayerGraph | None:
  """Returns the layer graph of a victim, or None without logits.

  Layers of the package's own are traced as they are written, see
  `plain_layers`, and computed by the victim's own lowering.
  """
  if victim.logits is None:
    return None
  shapes = jax.eval_shape(victim.init, jax.random.key(0))
  # A function of its own: what JAX has traced before, it would not trace again.
  with plain_layers():
    graph = introspect(lambda *inputs: victim.logits(*inputs), shapes,
                       victim.clip_shape)
  # XLA's own gradients of 3-D convolutions are far slower on a CPU.
  return with_lowering(graph, victim.lowering or 'matmul')


def tokens_of(victim: Victim) -> Tokens | None:
  """Returns the tokens of a transformer whose positions are learned, or None.

  The patches must be embedded by a dense layer.
  """
  if victim.graph is None:
    return None
  try:
    tokens = tokens_lib.find(victim.graph)
  except UserError:  # no transformer over patches
    return None
  kernel = victim.graph.leaf_shapes[tokens.embedding.op.kernel_path]
  if tokens.positions is None or len(kernel) != 2:
    return None
  shape, order = victim.clip_shape, tokens.order

  def patches(clips):
    return tokens.black + tokens.slope * clips.reshape(len(clips), -1)[:, order]

  def unpatch(values):
    flat = jnp.zeros((len(values), order.size), values.dtype)
    pixels = ((values - tokens.black) / tokens.slope).reshape(len(values), -1)
    return flat.at[:, order.ravel()].set(pixels).reshape(len(values), *shape)

  return Tokens(patches, unpatch, tokens.embedding.op.kernel_path[:-1],
                tokens.positions, tokens.num_special)


def chain_of(victim: Victim) -> tuple[Layer, ...]:
  """Returns the layers of a victim that is a plain chain, else ()."""
  if victim.graph is None:
    return ()
  try:
    return structure.layers(victim.graph)
  except UserError:  # it is no chain; the attacks say what they need
    return ()


def _clip_shape(shape) -> tuple[int, ...]:
  shape = tuple(shape)
  if len(shape) != 4 or not all(
      isinstance(n, int | np.integer) and n > 0 for n in shape):
    raise UserError(f'clip_shape is {shape}; it must be four positive whole '
                    'numbers: frames, rows, columns, colours.')
  return tuple(map(int, shape))


def _check(victim: Victim, shapes: Params, name: str) -> None:
  """Refuses what no attack could differentiate."""
  for path, leaf in trees.flatten(shapes).items():
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
      raise UserError(f'Parameter {path} of {name} is {leaf.dtype}; only real '
                      'floating point parameters are supported.')
  clips = jax.ShapeDtypeStruct((2, *victim.clip_shape), jnp.float32)
  if victim.logits is None:
    labels = jax.ShapeDtypeStruct((2,), jnp.int32)
    shape = jax.eval_shape(victim.loss, shapes, clips, labels).shape
    wanted: tuple[int, ...] = ()
  else:
    shape = jax.eval_shape(victim.logits, shapes, clips).shape
    wanted = (2, victim.num_classes)
  if shape != wanted:
    raise UserError(
        f'{name} maps clips {clips.shape} to {shape}, not to {wanted}. '
        f'Check clip_shape={victim.clip_shape} and '
        f'num_classes={victim.num_classes}.')
