"""The frozen networks whose features the perceptual loss compares."""

import os
from collections.abc import Callable
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp

from vidleak_jax.models import resnet, weights
from vidleak_jax.models.layers import standardize
from vidleak_jax.types import Array, UserError, pick

# The victims' extractor, of configs/train_extractor.py.
_SHIPPED = {'photo_motion': Path(__file__).parents[1].joinpath(
    'victims', 'photo_motion.safetensors')}
_VGG19 = (64, 64), (128, 128), (256,) * 4, (512,) * 4, (512,) * 4
# Real-ESRGAN's: the last convolution of each stage, before its activation.
_VGG19_WEIGHTS = {'conv1_2': 0.1, 'conv2_2': 0.1, 'conv3_4': 1.0,
                  'conv4_4': 1.0, 'conv5_4': 1.0}
_RESNET20 = resnet.ResNet(
    resnet.RESNET20, resnet.Style('relu', 'fixed', 'lax'), inputs='imagenet')
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
  module, names, kept, outputs = pick(
      {'vgg19': (VGG19(), _vgg19_names(), _VGG19_WEIGHTS, _of_vgg19),
       'resnet20': (_RESNET20, resnet.NAMES, _RESNET20_WEIGHTS, _of_resnet20)},
      network, 'perceptual network')
  if weights_file is None:
    raise UserError(
        f'A perceptual loss on {network} needs its weights: name a file of '
        'torchvision\'s layout in perceptual.weights_file, or choose '
        'perceptual.network=none to train without.')
  like = jax.eval_shape(module.init, jax.random.key(0),
                        jnp.zeros((1, 32, 32, 3)))
  statistics = {k: v for k, v in like.items() if k == 'batch_stats'}
  weights_file = _SHIPPED.get(str(weights_file), weights_file)
  params, report = weights.load(like['params'] | statistics, weights_file,
                                names)
  weights.require_all(report, weights_file)
  variables = {k: params.pop(k) for k in statistics} | {'params': params}

  def weighted(frames):
    found = outputs(module, variables, frames)
    return [(weight, found[layer]) for layer, weight in kept.items()]
  return weighted


def _of_vgg19(module, variables, frames):
  return module.apply(variables, standardize(frames, 'imagenet'))


def _of_resnet20(module, variables, frames):
  """The sums that end the stages, before their activation."""
  _, state = module.apply(variables, frames, mutable='intermediates')
  last = resnet.RESNET20.depths[0] - 1
  return {stage: state['intermediates'][f'{stage}_{last}']['before'][0]
          for stage in _RESNET20_WEIGHTS}


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
