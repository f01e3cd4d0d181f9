"""ViViT (Arnab et al., 2103.15691): a transformer over tubelets of a clip."""

from collections.abc import Callable

import flax.linen as nn

from vidleak_jax.models.transformer import (
  POOLS,
  Encoder,
  Size,
  Style,
  dense,
  tubelets,
)
from vidleak_jax.types import Array, Tokens, Victim, pick
from vidleak_jax.victims import base

PRESETS = {
    'tiny': Size((2, 8, 8), width=16, depth=2, heads=2, mlp=32),
    'small': Size((2, 16, 16), width=192, depth=4, heads=3, mlp=768),
    'full': Size((2, 16, 16), width=768, depth=12, heads=12, mlp=3072),
}
_TIME_DEPTH = 4  # blocks over time in the factorised encoder
_EPS = 1e-6

# From the names in transformers' checkpoints, of before and after version 5.
NAMES = (
    (r'^vivit\.', ''),
    (r'^embeddings\.', ''),
    (r'cls_token', 'encoder.cls'),
    (r'position_embeddings', 'encoder.positions'),
    (r'patch_embeddings\.projection', 'embed'),
    (r'^(encoder\.layer|layers)\.(\d+)\.', r'encoder.block\2.'),
    (r'attention\.(attention\.query|q_proj)', 'attention.query'),
    (r'attention\.(attention\.key|k_proj)', 'attention.key'),
    (r'attention\.(attention\.value|v_proj)', 'attention.value'),
    (r'attention\.(output\.dense|o_proj)', 'attention.out'),
    (r'layernorm_before', 'norm1'),
    (r'layernorm_after', 'norm2'),
    (r'(intermediate\.dense|mlp\.fc1)', 'mlp.in'),
    (r'(block\d+)\.(output\.dense|mlp\.fc2)', r'\1.mlp.out'),
    (r'^layernorm', 'encoder.norm'),
    (r'^classifier', 'head'),
)


class Joint(nn.Module):
  """Attention among all tubelets of the clip (the paper's model 1)."""
  patches: Callable[[Array], Array]
  size: Size
  style: Style
  pool: str
  num_classes: int

  @nn.compact
  def __call__(self, clips):
    x = dense(self.size.width, 'embed')(self.patches(clips))
    x = Encoder(self.size.depth, self.style, self.pool, name='encoder')(x)
    return dense(self.num_classes, 'head')(x)


class Factorised(nn.Module):
  """Attention in space, then in time (the paper's model 2)."""
  patches: Callable[[Array], Array]
  size: Size
  style: Style
  pool: str
  num_classes: int
  num_steps: int  # tubelets in time

  @nn.compact
  def __call__(self, clips):
    width = self.size.width
    x = dense(width, 'embed')(self.patches(clips))
    x = x.reshape(x.shape[0] * self.num_steps, -1, width)
    x = Encoder(self.size.depth, self.style, self.pool, name='space')(x)
    x = x.reshape(-1, self.num_steps, width)
    x = Encoder(_TIME_DEPTH, self.style, self.pool, name='time')(x)
    return dense(self.num_classes, 'head')(x)


def vivit(
    clip_shape: tuple[int, ...],
    num_classes: int,
    *,
    preset: str = 'small',
    encoder: str = 'joint',
    pool: str = 'token',
    activation: str = 'gelu',
    norm: str = 'layer',
    inputs: str = 'unit',
) -> Victim:
  """Tubelet embedding, learned positions, pre-norm blocks.

  Args:
    clip_shape: (T, H, W, C), multiples of the preset's tubelet.
    num_classes: K.
    preset: a name of `PRESETS`; 'full' is ViViT-B/16x2.
    encoder: 'joint' attention in space and time, or 'factorised'. Only the
      joint one has a position a tubelet, thus `Victim.tokens`.
    pool: a class 'token', or the 'mean' of all tokens.
    activation: a name of `layers.ACTIVATIONS`.
    norm: a name of `norms.NORMS`.
    inputs: a name of `layers.INPUTS`; the published weights take 'half'.

  Raises:
    UserError: for a clip that the tubelets do not tile, and unknown names.
  """
  size = pick(PRESETS, preset, 'preset of vivit')
  num_special = pick(POOLS, pool, 'pooling')
  style = Style(size.heads, size.mlp, activation, norm, _EPS)
  patches, unpatch = tubelets(clip_shape, size.tubelet, inputs)
  common = patches, size, style, pool, num_classes
  modules = {
      'joint': Joint(*common),
      'factorised': Factorised(*common, clip_shape[0] // size.tubelet[0]),
  }
  tokens = Tokens(patches, unpatch, ('embed',), ('encoder', 'positions'),
                  num_special)
  return base.from_module(
      pick(modules, encoder, 'encoder of vivit'), clip_shape, num_classes,
      tokens=tokens if encoder == 'joint' else None)
