"""PyTorch's ATen operations on JAX arrays: those that video networks use.

Each rule takes the operation's arguments in torch's order. Semantics are those
of evaluation: dropout does nothing, batch norm takes its running statistics.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vidleak_jax.models.layers import matmul_conv
from vidleak_jax.types import Array
from vidleak_jax.victims.operations import Pool, by_channel

RULES: dict[str, Callable] = {}
_END = 2**62  # torch's last index of a slice is 2**63 - 1
_DTYPES = {
    'torch.float16': jnp.float16, 'torch.bfloat16': jnp.bfloat16,
    'torch.float32': jnp.float32, 'torch.float64': jnp.float64,
    'torch.int32': jnp.int32, 'torch.int64': jnp.int32, 'torch.bool': bool}


def rule(*names: str):
  """Registers a function under names of ATen operations."""
  def register(function):
    RULES.update(dict.fromkeys(names, function))
    return function
  return register


def _plain(function, *names):
  """A rule for a function that takes torch's arguments as they are."""
  RULES.update(dict.fromkeys(names, function))


# --- convolutions and dense layers ---


@rule('conv1d', 'conv2d', 'conv3d')
def _conv(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1, *,
          lowering='lax'):
  ndim = weight.ndim - 2
  stride, dilation = _each(stride, ndim), _each(dilation, ndim)
  if isinstance(padding, str):
    total = [d * (k - 1) for k, d in zip(weight.shape[2:], dilation)]
    pads = [(t // 2, t - t // 2) if padding == 'same' else (0, 0)
            for t in total]
  else:
    pads = [(p, p) for p in _each(padding, ndim)]
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
  ndim = len(_each(window, 1)) if np.ndim(window) else x.ndim - 2
  window = _each(window, ndim)
  stride = _each(stride, ndim) if stride else window
  if any(d != 1 for d in _each(dilation, ndim)):
    raise NotImplementedError('max pooling with dilation')
  pads = _pool_pads(x, window, stride, _each(padding, ndim), ceil)
  lead = x.ndim - ndim
  return Pool('max', (1,) * lead + window, (1,) * lead + stride,
              ((0, 0),) * lead + pads)({}, x)


@rule('avg_pool1d', 'avg_pool2d', 'avg_pool3d')
def _avg_pool(x, window, stride=(), padding=0, ceil=False, count_pad=True,
              divisor=None):
  ndim = len(_each(window, 1)) if np.ndim(window) else x.ndim - 2
  window = _each(window, ndim)
  stride = _each(stride, ndim) if stride else window
  padding = _each(padding, ndim)
  if ceil or (any(padding) and not count_pad):
    raise NotImplementedError('average pooling that does not count its padding')
  lead = x.ndim - ndim
  total = lax.reduce_window(
      x, jnp.zeros((), x.dtype), lax.add, (1,) * lead + window,
      (1,) * lead + stride, ((0, 0),) * lead + tuple((p, p) for p in padding))
  return total / (divisor or math.prod(window))


@rule('adaptive_avg_pool1d', 'adaptive_avg_pool2d', 'adaptive_avg_pool3d')
def _adaptive_avg_pool(x, size):
  size = _each(size, len(size))
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


# --- shapes ---


@rule('flatten')
def _flatten(x, start=0, end=-1):
  start, end = start % x.ndim, end % x.ndim
  return x.reshape(*x.shape[:start], -1, *x.shape[end + 1:])


@rule('expand')
def _expand(x, shape, *, implicit=False):
  lead = len(shape) - x.ndim
  return jnp.broadcast_to(x, [
      x.shape[i - lead] if n == -1 else n for i, n in enumerate(shape)])


@rule('transpose')
def _transpose(x, first, second):
  return jnp.swapaxes(x, first, second)


@rule('slice')
def _slice(x, axis=0, start=None, stop=None, step=1):
  cut = [slice(None)] * x.ndim
  stop = None if stop is None or stop > _END else stop
  cut[axis] = slice(start, stop, step)
  return x[tuple(cut)]


@rule('select')
def _select(x, axis, index):
  return lax.index_in_dim(x, index, axis, keepdims=False)


@rule('unbind')
def _unbind(x, axis=0):
  return tuple(_select(x, axis, i) for i in range(x.shape[axis]))


@rule('split', 'split_with_sizes')
def _split(x, size, axis=0):
  length = x.shape[axis]
  sizes = [min(size, length - i) for i in range(0, length, size)] if (
      isinstance(size, int)) else size
  return tuple(jnp.split(x, np.cumsum(sizes)[:-1].tolist(), axis))


@rule('chunk')
def _chunk(x, count, axis=0):
  return _split(x, -(-x.shape[axis] // count), axis)


@rule('constant_pad_nd')
def _pad(x, pad, value=0):
  pairs = list(zip(pad[::2], pad[1::2]))[::-1]
  config = [(0, 0, 0)] * (x.ndim - len(pairs)) + [(*p, 0) for p in pairs]
  return lax.pad(x, jnp.asarray(value, x.dtype), config)


@rule('pad')
def _pad_by_mode(x, pad, mode='constant', value=None):
  if mode != 'constant':
    raise NotImplementedError(f'padding in mode {mode}')
  return _pad(x, pad, value or 0)


@rule('squeeze')
def _squeeze(x, axis=None):
  axes = range(x.ndim) if axis is None else _each(axis, 1)
  return jnp.squeeze(x, tuple(a for a in axes if x.shape[a] == 1))


@rule('index')
def _index(x, indices):
  return x[tuple(slice(None) if i is None else i for i in indices)]


# --- numbers ---


@rule('add')
def _add(x, y, *, alpha=1):
  return x + (y if alpha == 1 else alpha * y)


@rule('sub')
def _sub(x, y, *, alpha=1):
  return x - (y if alpha == 1 else alpha * y)


@rule('gelu')
def _gelu(x, *, approximate='none'):
  return jax.nn.gelu(x, approximate=approximate == 'tanh')


@rule('mean', 'sum', 'amax')
def _reduced(x, axis=None, keepdims=False, *, dtype=None, function='mean'):
  axis = None if axis is None or axis == [] else tuple(_each(axis, 1))
  return getattr(jnp, function)(x, axis, keepdims=keepdims)


RULES['sum'] = functools.partial(_reduced, function='sum')
RULES['amax'] = functools.partial(_reduced, function='max')


@rule('clone', 'contiguous', 'alias', 'dropout', 'lift_fresh_copy', 'to',
      'feature_dropout', 'alpha_dropout', 'type_as', 'identity')
def _same(x, *_, **__):
  return x


@rule('_to_copy')
def _cast(x, *, dtype=None, **_):
  return x if dtype is None else x.astype(_dtype(dtype))


@rule('arange')
def _arange(*bounds, dtype=None, **_):
  return jnp.arange(*bounds, dtype=_dtype(dtype))


@rule('full')
def _full(shape, value, *, dtype=None, **_):
  return jnp.full(shape, value, _dtype(dtype))


RULES['zeros'] = lambda shape, **k: _full(shape, 0.0, dtype=k.get('dtype'))
RULES['ones'] = lambda shape, **k: _full(shape, 1.0, dtype=k.get('dtype'))
_plain(lambda x, **_: jnp.zeros_like(x), 'zeros_like')
_plain(lambda x, **_: jnp.ones_like(x), 'ones_like')
_plain(lambda x, axis: x.shape[axis], 'sym_size')
_plain(lambda *_, **__: None, '_assert_tensor_metadata')
_plain(lambda x, axis, *_: jax.nn.softmax(x, axis), 'softmax', '_softmax')
_plain(lambda x, axis, *_: jax.nn.log_softmax(x, axis), 'log_softmax',
       '_log_softmax')
_plain(lambda x, shape: x.reshape(shape), 'view', 'reshape', '_unsafe_view')
_plain(lambda x, axes: x.transpose(axes), 'permute')
_plain(lambda x: x.T, 't')
_plain(jnp.expand_dims, 'unsqueeze')
_plain(jnp.tile, 'repeat')
_plain(lambda x, axis=0: jnp.concatenate(x, axis), 'cat', 'concat')
_plain(lambda x, axis=0: jnp.stack(x, axis), 'stack')
_plain(lambda text, arrays, **_: jnp.einsum(text, *arrays), 'einsum')
_plain(jnp.matmul, 'matmul', 'mm', 'bmm')
_plain(jnp.multiply, 'mul')
_plain(jnp.divide, 'div')
_plain(lambda x, y: y - x, 'rsub')
_plain(lambda x, y: x**y, 'pow')
_plain(lambda x, low=None, high=None: jnp.clip(x, low, high), 'clamp')
_plain(lambda x, low=-1.0, high=1.0: jnp.clip(x, low, high), 'hardtanh')
_plain(lambda x, slope=0.01: jax.nn.leaky_relu(x, slope), 'leaky_relu')
_plain(lambda x, alpha=1.0, *_: jax.nn.elu(x, alpha), 'elu')
_plain(lambda x, slope: jnp.where(
    x > 0, x, x * (by_channel(slope, x.ndim, 1) if slope.size > 1 else slope)),
       'prelu')
_plain(lambda x, *_: jax.nn.softplus(x), 'softplus')
_plain(lambda mask, x, y: jnp.where(mask, x, y), 'where')
_plain(lambda x, mask, value: jnp.where(mask, value, x), 'masked_fill')
_plain(lax.stop_gradient, 'detach')
for _name, _function in {
    'relu': jax.nn.relu, 'relu6': jax.nn.relu6, 'silu': jax.nn.silu,
    'sigmoid': jax.nn.sigmoid, 'tanh': jnp.tanh, 'mish': jax.nn.mish,
    'hardswish': jax.nn.hard_swish, 'hardsigmoid': jax.nn.hard_sigmoid,
    'neg': jnp.negative, 'exp': jnp.exp, 'log': jnp.log, 'sqrt': jnp.sqrt,
    'rsqrt': lax.rsqrt, 'abs': jnp.abs, 'sin': jnp.sin, 'cos': jnp.cos,
    'erf': lax.erf, 'square': jnp.square, 'ge': jnp.greater_equal,
    'gt': jnp.greater, 'le': jnp.less_equal, 'lt': jnp.less, 'eq': jnp.equal,
    'ne': jnp.not_equal, 'logical_not': jnp.logical_not,
    'logical_and': jnp.logical_and, 'maximum': jnp.maximum,
    'minimum': jnp.minimum}.items():
  _plain(_function, _name)


def _each(value, count) -> tuple[int, ...]:
  """One entry an axis, from one for all of them."""
  if isinstance(value, int):
    return (value,) * count
  value = tuple(value)
  return value * count if len(value) == 1 else value


def _dtype(dtype) -> Array | None:
  return None if dtype is None else _DTYPES[str(dtype)]
