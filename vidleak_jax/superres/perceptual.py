"""The frozen networks whose features the perceptual loss compares."""

import functools
import os
import re
from collections.abc import Callable
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp

from vidleak_jax.models import weights
from vidleak_jax.types import Array, UserError, pick

# The victims' extractor, of configs/train_extractor.py.
_SHIPPED = {'photo_motion': Path(__file__).parents[1].joinpath(
    'victims', 'photo_motion.safetensors')}
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_VGG19 = (64, 64), (128, 128), (256,) * 4, (512,) * 4, (512,) * 4
# Real-ESRGAN's: the last convolution of each stage, before its activation.
_VGG19_WEIGHTS = {'conv1_2': 0.1, 'conv2_2': 0.1, 'conv3_4': 1.0,
                  'conv4_4': 1.0, 'conv5_4': 1.0}
_RESNET20_WEIGHTS = {'stage0': 1.0, 'stage1': 1.0, 'stage2': 1.0}


def features(network: str, weights_file: str | os.PathLike | None,
             ) -> Callable | None:
  """frames [B, H, W, 3] in [0, 1] -> [(weight, features), ...].

  Args:
    network: `none` for no perceptual loss (gives None), `vgg19` or `resnet20`.
    weights_file: in torchvision's names, or, for resnet20, an extractor of
      this project, such as `photo_motion`, which is shipped; must be given
      unless `none`.

  Raises:
    UserError: for a name that is not here, a file that is missing or does not
      fit.
  """
  if network == 'none':
    return None
  module, names, kept = pick(
      {'vgg19': (VGG19(), _vgg19_names(), _VGG19_WEIGHTS),
       'resnet20': (ResNet20(), _RESNET20_NAMES, _RESNET20_WEIGHTS)},
      network, 'perceptual network')
  if weights_file is None:
    raise UserError(
        f'A perceptual loss on {network} needs its weights: name a file of '
        'torchvision\'s layout in perceptual.weights_file, or choose '
        'perceptual.network=none to train without.')
  like = jax.eval_shape(module.init, jax.random.key(0),
                        jnp.zeros((1, 32, 32, 3)))
  weights_file = _SHIPPED.get(str(weights_file), weights_file)
  tensors = weights.read(weights_file)
  if 'stem/conv/kernel' in tensors:  # in our axes too: no name is left to map
    tensors = {_own(key): tensor for key, tensor in tensors.items()}
  params, report = weights.fill(like['params'], tensors, names)
  weights.require_all(report, weights_file)
  return functools.partial(_weighted, module, params, kept)


def _weighted(module, params, kept, frames):
  frames = (frames - jnp.asarray(_MEAN)) / jnp.asarray(_STD)
  found = module.apply({'params': params}, frames)
  return [(weight, found[layer]) for layer, weight in kept.items()]


class VGG19(nn.Module):
  """The convolutions of VGG-19 (1409.1556); gives each one's output."""

  @nn.compact
  def __call__(self, x: Array) -> dict[str, Array]:
    found = {}
    for stage, widths in enumerate(_VGG19, 1):
      if stage > 1:
        x = nn.max_pool(x, (2, 2), (2, 2))
      for i, width in enumerate(widths, 1):
        name = f'conv{stage}_{i}'
        x = found[name] = nn.Conv(width, (3, 3), name=name)(x)
        x = nn.relu(x)
    return found


def _vgg19_names():
  """torchvision counts convolutions, activations and pools in one row."""
  names, at = [], 0
  for stage, widths in enumerate(_VGG19, 1):
    for i in range(1, len(widths) + 1):
      names.append((rf'^features\.{at}\.', f'conv{stage}_{i}.'))
      at += 2
    at += 1
  return tuple(names)


class ResNet20(nn.Module):
  """CIFAR's ResNet-20 with frozen statistics; gives the stages' outputs."""

  @nn.compact
  def __call__(self, x: Array) -> dict[str, Array]:
    norm = Frozen
    x = nn.relu(norm(name='bn1')(
        nn.Conv(16, (3, 3), use_bias=False, name='conv1')(x)))
    found = {}
    for stage, width in enumerate((16, 32, 64)):
      for i in range(3):
        stride = 2 if stage and not i else 1
        name = f'layer{stage + 1}_{i}'
        inner = nn.Conv(width, (3, 3), stride, padding=1, use_bias=False,
                        name=f'{name}_conv1')(x)
        inner = nn.relu(norm(name=f'{name}_bn1')(inner))
        inner = nn.Conv(width, (3, 3), use_bias=False,
                        name=f'{name}_conv2')(inner)
        grow = (width - x.shape[-1]) // 2
        short = jnp.pad(x[:, ::stride, ::stride],
                        ((0, 0),) * 3 + ((grow, grow),))
        x = norm(name=f'{name}_bn2')(inner) + short
        found[f'stage{stage}'] = x
        x = nn.relu(x)
    return found


class Frozen(nn.Module):
  """BatchNorm at inference."""

  @nn.compact
  def __call__(self, x: Array) -> Array:
    ones, zeros = nn.initializers.ones, nn.initializers.zeros
    get = lambda name, init: self.param(name, init, x.shape[-1:])  # noqa: E731
    scale = get('scale', ones) * jax.lax.rsqrt(get('var', ones) + 1e-5)
    return (x - get('mean', zeros)) * scale + get('bias', zeros)


_RESNET20_NAMES = (
    (r'^layer(\d)\.(\d)\.', r'layer\1_\2_'),
    (r'running_', ''),
)


def _own(key):
  """The name here of a weight of the victims' ResNet-20."""
  key = key.removeprefix('batch_stats/').replace('stem/conv', 'conv1')
  key = key.replace('stem/norm', 'bn1')
  return re.sub(
      r'^stage(\d)_(\d)/unit(\d)/(conv|norm)',
      lambda m: f'layer{int(m[1]) + 1}_{m[2]}_'
                f'{"conv" if m[4] == "conv" else "bn"}{int(m[3]) + 1}', key)
