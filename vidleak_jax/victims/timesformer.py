"""TimeSformer (Bertasius et al., 2102.05095): time first, then space."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from vidleak_jax.models.norms import Norm
from vidleak_jax.models.repeat import repeat
from vidleak_jax.models.transformer import (
  Attention,
  Mlp,
  Size,
  Style,
  dense,
  tubelets,
)
from vidleak_jax.types import Array, Victim, pick
from vidleak_jax.victims import base

PRESETS = {
    'tiny': Size((1, 8, 8), width=16, depth=2, heads=2, mlp=32),
    'small': Size((1, 16, 16), width=192, depth=4, heads=3, mlp=768),
    'full': Size((1, 16, 16), width=768, depth=12, heads=12, mlp=3072),
}
_EPS = 1e-6

# From the names in transformers' checkpoints.
NAMES = (
    (r'^timesformer\.', ''),
    (r'^embeddings\.', ''),
    (r'cls_token', 'cls'),
    (r'position_embeddings', 'positions'),
    (r'time_embeddings', 'times'),
    (r'patch_embeddings\.projection', 'embed'),
    (r'^encoder\.layer\.(\d+)\.', r'block\1.'),
    (r'temporal_attention\.(attention\.)?', 'time.'),
    (r'temporal_layernorm', 'time_norm'),
    (r'temporal_dense', 'time_dense'),
    (r'\.attention\.(attention\.)?', '.space.'),
    (r'(time|space)\.output\.dense', r'\1.out'),
    (r'layernorm_before', 'space_norm'),
    (r'layernorm_after', 'mlp_norm'),
    (r'intermediate\.dense', 'mlp.in'),
    (r'(block\d+)\.output\.dense', r'\1.mlp.out'),
    (r'^layernorm', 'norm'),
    (r'^classifier', 'head'),
)


class Divided(nn.Module):
  """One block: attention along time, attention inside frames, MLP."""
  style: Style

  @nn.compact
  def __call__(self, token: Array, x: Array) -> tuple[Array, Array]:
    """Maps the class token [B, 1, D] and the frames' tokens [B, T, N, D]."""
    style = self.style

    def norm(name):
      return Norm(style.norm, style.eps, name=name)

    y = norm('time_norm')(x).swapaxes(1, 2)
    y = Attention(style, name='time')(y).swapaxes(1, 2)
    x = x + dense(x.shape[-1], 'time_dense')(y)

    tokens = jnp.broadcast_to(token[:, None], (*x.shape[:2], 1, x.shape[-1]))
    y = norm('space_norm')(jnp.concatenate([tokens, x], axis=2))
    y = Attention(style, name='space')(y)
    token, x = token + jnp.mean(y[:, :, 0], 1, keepdims=True), x + y[:, :, 1:]

    joined = jnp.concatenate([token, x.reshape(len(x), -1, x.shape[-1])], 1)
    joined = joined + Mlp(style, name='mlp')(norm('mlp_norm')(joined))
    return joined[:, :1], joined[:, 1:].reshape(x.shape)


class TimeSformer(nn.Module):
  """Positions in space and in time, divided blocks, the class token's head."""
  patches: Callable[[Array], Array]
  size: Size
  style: Style
  num_classes: int
  num_frames: int

  @nn.compact
  def __call__(self, clips):
    width = self.size.width
    x = dense(width, 'embed')(self.patches(clips))
    x = x.reshape(x.shape[0], self.num_frames, -1, width)
    small = nn.initializers.normal(0.02)
    token = self.param('cls', small, (1, 1, width))
    space = self.param('positions', small, (1, x.shape[2] + 1, width))
    time = self.param('times', small, (1, self.num_frames, width))
    x = x + space[:, None, 1:] + time[:, :, None]
    token = jnp.broadcast_to(token + space[:, :1], (x.shape[0], 1, width))
    token, x = repeat(self, functools.partial(Divided, self.style),
                      self.size.depth, token, x)
    x = Norm(self.style.norm, self.style.eps, name='norm')(token[:, 0])
    return dense(self.num_classes, 'head')(x)


def timesformer(
    clip_shape: tuple[int, ...],
    num_classes: int,
    *,
    preset: str = 'small',
    activation: str = 'gelu_exact',
    norm: str = 'layer',
    inputs: str = 'unit',
) -> Victim:
  """Divided space-time attention over the patches of all frames.

  Positions are shared among frames and times among patches, so no token has a
  position of its own: `Victim.tokens` stays empty.

  Args:
    clip_shape: (T, H, W, C), H and W multiples of the preset's patch.
    num_classes: K.
    preset: a name of `PRESETS`; 'full' is TimeSformer-B.
    activation: a name of `layers.ACTIVATIONS`.
    norm: a name of `norms.NORMS`.
    inputs: a name of `layers.INPUTS`.

  Raises:
    UserError: for a clip that the patches do not tile, and unknown names.
  """
  size = pick(PRESETS, preset, 'preset of timesformer')
  style = Style(size.heads, size.mlp, activation, norm, _EPS)
  patches, _ = tubelets(clip_shape, size.tubelet, inputs)
  module = TimeSformer(patches, size, style, num_classes, clip_shape[0])
  return base.from_module(module, clip_shape, num_classes)
