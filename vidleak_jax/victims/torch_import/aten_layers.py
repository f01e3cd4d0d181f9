"""PyTorch's layers on JAX arrays; see `aten`, which has all the rules."""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vidleak_jax.models.layers import matmul_conv
from vidleak_jax.victims.introspection.operations import Pool, by_channel

RULES: dict[str, Callable] = {}


def rule(*names: str):
  """Registers a function under names of ATen operations."""
  def register(function):
    RULES.update(dict.fromkeys(names, function))
    return function
  return register


# --- convolutions and dense layers ---


@rule('conv1d', 'conv2d', 'conv3d')
def _conv(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1, *,
          lowering='lax'):
  ndim = weight.ndim - 2
  stride, dilation = each(stride, ndim), each(dilation, ndim)
  if isinstance(padding, str):
    total = [d * (k - 1) for k, d in zip(weight.shape[2:], dilation)]
    pads = [(t // 2, t - t // 2) if padding == 'same' else (0, 0)
            for t in total]
  else:
    pads = [(p, p) for p in each(padding, ndim)]
  if lowering == 'matmul' and groups == 1:
    y = matmul_conv(
        jnp.moveaxis(x, 1, -1), jnp.moveaxis(weight, (0, 1), (-1, -2)), stride,
        pads, rhs_dilation=dilation)
    y = jnp.moveaxis(y, -1, 1)
  else:
    space = 'DHW'[-ndim:]
    y = lax.conv_general_dilated(
        x, weight, stride, pads, rhs_dilation=dilation,
        feature_group_count=groups,
        dimension_numbers=(f'NC{space}', f'OI{space}', f'NC{space}'))
  return y if bias is None else y + by_channel(bias, y.ndim, 1)


@rule('linear')
def _linear(x, weight, bias=None):
  y = lax.dot_general(x, weight, (((x.ndim - 1,), (1,)), ((), ())))
  return y if bias is None else y + bias


@rule('addmm')
def _addmm(bias, x, y, *, beta=1, alpha=1):
  product = alpha * (x @ y) if alpha != 1 else x @ y
  return product + (beta * bias if beta != 1 else bias)


# --- norms ---


@rule('batch_norm')
def _batch_norm(x, weight, bias, mean, var, training=False, momentum=0.1,
                eps=1e-5, cudnn=False):
  return _batch_norms(x, weight, bias, mean, var, momentum, eps)[0]


@rule('_native_batch_norm_legit_no_training')
def _batch_norms(x, weight, bias, mean, var, momentum, eps):
  read = functools.partial(by_channel, ndim=x.ndim, axis=1)
  y = (x - read(mean)) * lax.rsqrt(read(var) + eps)
  return (_scaled(y, weight, bias, read),)


@rule('layer_norm')
def _layer_norm(x, shape, weight=None, bias=None, eps=1e-5, cudnn=False):
  y = _whiten(x, tuple(range(-len(shape), 0)), eps)
  return _scaled(y, weight, bias, lambda leaf: leaf)


@rule('native_layer_norm')
def _layer_norms(x, shape, weight, bias, eps):
  return (_layer_norm(x, shape, weight, bias, eps),)


@rule('group_norm')
def _group_norm(x, groups, weight=None, bias=None, eps=1e-5, cudnn=False):
  grouped = x.reshape(x.shape[0], groups, -1)
  y = _whiten(grouped, (2,), eps).reshape(x.shape)
  return _scaled(y, weight, bias,
                 functools.partial(by_channel, ndim=x.ndim, axis=1))


@rule('instance_norm')
def _instance_norm(x, weight, bias, mean, var, use_input, momentum, eps,
                   cudnn=False):
  return _group_norm(x, x.shape[1], weight, bias, eps)


def _whiten(x, axes, eps):
  x = x - jnp.mean(x, axes, keepdims=True)
  return x * lax.rsqrt(jnp.mean(x * x, axes, keepdims=True) + eps)


def _scaled(y, weight, bias, read):
  y = y if weight is None else y * read(weight)
  return y if bias is None else y + read(bias)


# --- attention ---


@rule('scaled_dot_product_attention')
def _attention(query, key, value, mask=None, dropout=0.0, causal=False, *,
               scale=None, enable_gqa=False):
  scores = query @ jnp.swapaxes(key, -1, -2)
  scores = scores * (query.shape[-1] ** -0.5 if scale is None else scale)
  if causal:
    mask = jnp.tril(jnp.ones(scores.shape[-2:], bool))
  if mask is not None:
    scores = (jnp.where(mask, scores, -jnp.inf) if mask.dtype == bool
              else scores + mask)
  return jax.nn.softmax(scores, -1) @ value


# --- pooling ---


@rule('max_pool1d', 'max_pool2d', 'max_pool3d')
def _max_pool(x, window, stride=(), padding=0, dilation=1, ceil=False):
  ndim = len(each(window, 1)) if np.ndim(window) else x.ndim - 2
  window = each(window, ndim)
  stride = each(stride, ndim) if stride else window
  if any(d != 1 for d in each(dilation, ndim)):
    raise NotImplementedError('max pooling with dilation')
  pads = _pool_pads(x, window, stride, each(padding, ndim), ceil)
  lead = x.ndim - ndim
  return Pool('max', (1,) * lead + window, (1,) * lead + stride,
              ((0, 0),) * lead + pads)({}, x)


@rule('avg_pool1d', 'avg_pool2d', 'avg_pool3d')
def _avg_pool(x, window, stride=(), padding=0, ceil=False, count_pad=True,
              divisor=None):
  ndim = len(each(window, 1)) if np.ndim(window) else x.ndim - 2
  window = each(window, ndim)
  stride = each(stride, ndim) if stride else window
  padding = each(padding, ndim)
  if ceil or (any(padding) and not count_pad):
    raise NotImplementedError('average pooling that does not count its padding')
  lead = x.ndim - ndim
  total = lax.reduce_window(
      x, jnp.zeros((), x.dtype), lax.add, (1,) * lead + window,
      (1,) * lead + stride, ((0, 0),) * lead + tuple((p, p) for p in padding))
  return total / (divisor or math.prod(window))


@rule('adaptive_avg_pool1d', 'adaptive_avg_pool2d', 'adaptive_avg_pool3d')
def _adaptive_avg_pool(x, size):
  size = each(size, len(size))
  space = x.shape[-len(size):]
  if all(s == 1 for s in size):
    return jnp.mean(x, tuple(range(-len(size), 0)), keepdims=True)
  if any(n % s for n, s in zip(space, size)):
    raise NotImplementedError(f'adaptive pooling of {space} to {size}')
  return _avg_pool(x, tuple(n // s for n, s in zip(space, size)))


def _pool_pads(x, window, stride, padding, ceil):
  pads = []
  for n, k, s, p in zip(x.shape[-len(window):], window, stride, padding):
    more = -(n + 2 * p - k) % s if ceil else 0
    # torch drops a window that would start in the padding at the end
    pads.append((p, p + (more if n + p > -(-(n + 2 * p - k) // s) * s else 0)))
  return tuple(pads)


def each(value: int | Sequence[int], count: int) -> tuple[int, ...]:
  """One entry an axis, from one for all of them."""
  if isinstance(value, int):
    return (value,) * count
  value = tuple(value)
  return value * count if len(value) == 1 else value
