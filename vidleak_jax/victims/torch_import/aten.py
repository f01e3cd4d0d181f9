"""PyTorch's ATen operations on JAX arrays: those that video networks use.

Each rule takes the operation's arguments in torch's order. Semantics are those
of evaluation: dropout does nothing, batch norm takes its running statistics.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vidleak_jax.victims.introspection.operations import by_channel
from vidleak_jax.victims.torch_import.aten_layers import RULES, each, rule

_END = 2**62  # torch's last index of a slice is 2**63 - 1
_DTYPES = {
    'torch.float16': jnp.float16, 'torch.bfloat16': jnp.bfloat16,
    'torch.float32': jnp.float32, 'torch.float64': jnp.float64,
    'torch.int32': jnp.int32, 'torch.int64': jnp.int32, 'torch.bool': bool}


def _plain(function, *names):
  """A rule for a function that takes torch's arguments as they are."""
  RULES.update(dict.fromkeys(names, function))


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
  axes = range(x.ndim) if axis is None else each(axis, 1)
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
  axis = None if axis is None or axis == [] else tuple(each(axis, 1))
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
_plain(lambda x, alpha=1.0, scale=1.0, inner=1.0: scale * jnp.where(
    x > 0, x, alpha * jnp.expm1(inner * jnp.minimum(x, 0))), 'elu')
_plain(jax.nn.selu, 'selu')
_plain(jax.nn.celu, 'celu')
_plain(lambda x, slope: jnp.where(
    x > 0, x, x * (by_channel(slope, x.ndim, 1) if slope.size > 1 else slope)),
       'prelu')
_plain(lambda x, beta=1.0, threshold=20.0:
       jax.nn.softplus(x * beta) / beta, 'softplus')
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


def _dtype(dtype):
  return None if dtype is None else _DTYPES[str(dtype)]
