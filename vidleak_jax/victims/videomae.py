"""VideoMAE's network (Tong et al., 2203.12602), fine-tuned to classify."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from vidleak_jax.models.norms import Norm
from vidleak_jax.models.repeat import repeat
from vidleak_jax.models.transformer import Block, Size, Style, dense, tubelets
from vidleak_jax.types import Array, Victim, pick
from vidleak_jax.victims import base

PRESETS = {
    'tiny': Size((2, 8, 8), width=16, depth=2, heads=2, mlp=32),
    'small': Size((2, 16, 16), width=192, depth=4, heads=3, mlp=768),
    'full': Size((2, 16, 16), width=768, depth=12, heads=12, mlp=3072),
}
_EPS = 1e-12

# From the names in transformers' checkpoints, of before and after version 5.
NAMES = (
    (r'^videomae\.', ''),
    (r'^embeddings\.patch_embeddings\.projection', 'embed'),
    (r'^encoder\.layer\.(\d+)\.', r'block\1.'),
    (r'attention\.attention\.([qv])_bias',
     lambda m: f'attention.{"query" if m[1] == "q" else "value"}.bias'),
    (r'attention\.attention\.', 'attention.'),
    (r'attention\.output\.dense', 'attention.out'),
    (r'layernorm_before', 'norm1'),
    (r'layernorm_after', 'norm2'),
    (r'intermediate\.dense', 'mlp.in'),
    (r'(block\d+)\.output\.dense', r'\1.mlp.out'),
    (r'^fc_norm', 'norm'),
    (r'^classifier', 'head'),
)


class VideoMae(nn.Module):
  """Tubelets with fixed positions, blocks, the tokens' mean, a head."""
  patches: Callable[[Array], Array]
  size: Size
  style: Style
  num_classes: int

  @nn.compact
  def __call__(self, clips):
    x = dense(self.size.width, 'embed')(self.patches(clips))
    x = x + sine_positions(*x.shape[1:])
    x, = repeat(self, functools.partial(Block, self.style), self.size.depth, x)
    x = Norm(self.style.norm, name='norm')(jnp.mean(x, axis=1))
    return dense(self.num_classes, 'head')(x)


def sine_positions(num_tokens: int, width: int) -> Array:
  """The sines and cosines of 1706.03762, [1, N, D]."""
  rates = 10_000.0 ** (-2 * (np.arange(width) // 2) / width)
  angles = np.arange(num_tokens)[:, None] * rates
  angles[:, 0::2] = np.sin(angles[:, 0::2])
  angles[:, 1::2] = np.cos(angles[:, 1::2])
  return jnp.asarray(angles[None], jnp.float32)


def videomae(
    clip_shape: tuple[int, ...],
    num_classes: int,
    *,
    preset: str = 'small',
    activation: str = 'gelu_exact',
    norm: str = 'layer',
    inputs: str = 'unit',
) -> Victim:
  """A ViT over tubelets with fixed sine positions and mean pooling.

  Positions are not learned, so they have no gradient: `Victim.tokens` stays
  empty.

  Args:
    clip_shape: (T, H, W, C), multiples of the preset's tubelet.
    num_classes: K.
    preset: a name of `PRESETS`; 'full' is ViT-B.
    activation: a name of `layers.ACTIVATIONS`.
    norm: a name of `norms.NORMS`.
    inputs: a name of `layers.INPUTS`; the published weights take 'imagenet'.

  Raises:
    UserError: for a clip that the tubelets do not tile, and unknown names.
  """
  size = pick(PRESETS, preset, 'preset of videomae')
  style = Style(size.heads, size.mlp, activation, norm, _EPS, key_bias=False)
  patches, _ = tubelets(clip_shape, size.tubelet, inputs)
  module = VideoMae(patches, size, style, num_classes)
  return base.from_module(module, clip_shape, num_classes)
