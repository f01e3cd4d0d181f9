"""The one normalisation layer of all victims, of a kind chosen by name."""

import math

import flax.linen as nn
import jax.numpy as jnp
from jax import lax

from vidleak_jax.types import Array, pick

_MOMENTUM = 0.9  # of the running statistics
_NUM_GROUPS = 8


class Norm(nn.Module):
  """Normalises channels [B, ..., C]; params are 'scale' and 'bias', both [C].

  Attributes:
    kind: a name of `NORMS`. 'fixed' and 'batch' are BatchNorm (1502.03167) with
      the running or the batch's own statistics; both have the same params and
      'batch_stats' of 'mean' and 'var'. 'group' is GroupNorm (1803.08494) with
      8 groups, or as many as divide both 8 and C.
    eps: added to the variance.
  """
  kind: str
  eps: float = 1e-5

  @nn.compact
  def __call__(self, x: Array) -> Array:
    normalize = pick(NORMS, self.kind, 'norm')
    if normalize is None:
      return x
    width = x.shape[-1]
    scale = self.param('scale', nn.initializers.ones_init(), (width,))
    bias = self.param('bias', nn.initializers.zeros_init(), (width,))
    return normalize(self, x) * scale + bias


def _by_channel(norm, x):
  """LayerNorm over the channels of each position (1607.06450)."""
  return _whiten(x, *_moments(x, (-1,)), norm.eps)


def _by_group(norm, x):
  groups = math.gcd(_NUM_GROUPS, x.shape[-1])
  grouped = x.reshape(x.shape[0], -1, groups, x.shape[-1] // groups)
  return _whiten(grouped, *_moments(grouped, (1, 3)), norm.eps).reshape(x.shape)


def _by_batch(norm, x):
  mean, var = _moments(x, tuple(range(x.ndim - 1)))
  running = _running(norm, x.shape[-1])
  if norm.is_mutable_collection('batch_stats') and not norm.is_initializing():
    for old, new in zip(running, (mean, var)):
      new = new.reshape(-1)
      old.value = _MOMENTUM * old.value + (1 - _MOMENTUM) * new
  return _whiten(x, mean, var, norm.eps)


def _by_running(norm, x):
  mean, var = _running(norm, x.shape[-1])
  return _whiten(x, mean.value, var.value, norm.eps)


def _running(norm, width):
  return (norm.variable('batch_stats', 'mean', jnp.zeros, (width,)),
          norm.variable('batch_stats', 'var', jnp.ones, (width,)))


def _moments(x, axes):
  mean = jnp.mean(x, axes, keepdims=True)
  return mean, jnp.mean(jnp.square(x - mean), axes, keepdims=True)


def _whiten(x, mean, var, eps):
  return (x - mean) * lax.rsqrt(var + eps)


NORMS = {
    'fixed': _by_running,
    'batch': _by_batch,
    'group': _by_group,
    'layer': _by_channel,
    'none': None,
}
