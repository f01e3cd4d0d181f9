"""The victims' networks in torch, taken from their libraries where they are.

All take clips [B, C, T, H, W] and load their libraries only when they are
built.
"""

import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from vidleak_jax import victims
from vidleak_jax.models.weights import Names
from vidleak_jax.types import UserError
from vidleak_jax.victims.resnet3d import PRESETS as RESNETS
from vidleak_jax.victims.vivit import PRESETS as VIVITS

_ACTIVATIONS = {
    'gelu': functools.partial(nn.functional.gelu, approximate='tanh'),
    'sigmoid': torch.sigmoid,
}


class Network(NamedTuple):
  """How a victim's twin is made."""
  make: Callable[..., nn.Module]  # of a `problem.Problem`
  names: Names = ()  # from its parameters' names to paths in our params


class Stack(nn.Module):
  """Convolutions and a dense head, over clips or over single frames."""

  def __init__(self, problem):
    super().__init__()
    layers = problem.victim.layers
    if not layers:
      raise UserError(f'No peer has the layers of {"/".join(problem.network)}. '
                      'Choose a preset without pooling, or leave --peers out.')
    self.convs = nn.ModuleList()
    for layer, following in itertools.pairwise(layers):
      *window, inputs, outputs = problem.params[layer.name]['kernel'].shape
      # A kernel over frames' pixels alone leaves out the axis of the frames.
      sizes, rests = (each.in_shape[-1 - len(window):-1]
                      for each in (layer, following))
      strides = [-(-size // rest) for size, rest in zip(sizes, rests)]
      make = nn.Conv2d if len(window) == 2 else nn.Conv3d
      self.convs.append(make(inputs, outputs, window, strides,
                             [taps // 2 for taps in window]))
    self.activate = _ACTIVATIONS[problem.activation]
    self.head = nn.Linear(*problem.params['head']['kernel'].shape)

  def forward(self, clips):
    x = clips[:, :, 0] if isinstance(self.convs[0], nn.Conv2d) else clips
    for conv in self.convs:
      x = self.activate(conv(x))
    return self.head(x.flatten(1))


def _r2plus1d18(problem):
  """torchvision's, with the widths of our preset."""
  from torchvision.models.video import resnet
  size = RESNETS[problem.network[1]]
  _, *window = size.stem
  _, *strides = size.stem_strides

  def stem():
    middle = size.stem_middle
    return nn.Sequential(
        nn.Conv3d(3, middle, (1, *window), (1, *strides),
                  (0, *(k // 2 for k in window)), bias=False),
        nn.BatchNorm3d(middle), nn.ReLU(),
        nn.Conv3d(middle, size.stem_width, (size.stem[0], 1, 1),
                  (size.stem_strides[0], 1, 1), (size.stem[0] // 2, 0, 0),
                  bias=False),
        nn.BatchNorm3d(size.stem_width), nn.ReLU())

  model = resnet.VideoResNet(
      resnet.BasicBlock, [resnet.Conv2Plus1D] * 4, size.depths, stem)
  model.inplanes = size.stem_width
  for i, (width, depth) in enumerate(zip(size.widths, size.depths)):
    stage = model._make_layer(resnet.BasicBlock, resnet.Conv2Plus1D, width,
                              depth, stride=2 if i else 1)
    setattr(model, f'layer{i + 1}', stage)
  model.fc = nn.Linear(size.widths[-1], problem.victim.num_classes)
  for module in list(model.modules()):
    for name, child in module.named_children():
      if isinstance(child, nn.ReLU):
        setattr(module, name, nn.GELU('tanh'))
  return model


def _vivit(problem):
  """transformers', whose eager attention has a second derivative."""
  import transformers

  class Vivit(transformers.VivitForVideoClassification):

    def forward(self, clips):
      return super().forward(clips.transpose(1, 2)).logits

  size = VIVITS[problem.network[1]]
  frames, height, width, _ = problem.clip.shape
  return Vivit(transformers.VivitConfig(
      image_size=[height, width], num_frames=frames,
      tubelet_size=list(size.tubelet), hidden_size=size.width,
      num_hidden_layers=size.depth, num_attention_heads=size.heads,
      intermediate_size=size.mlp, num_labels=problem.victim.num_classes,
      hidden_act='gelu_pytorch_tanh', hidden_dropout_prob=0.0,
      attention_probs_dropout_prob=0.0, attn_implementation='eager'))


_STACK = Network(Stack, ((r'^convs\.', 'conv'),))
NETWORKS = {
    'c3d': _STACK,
    'lenet': _STACK,
    'r2plus1d18': Network(_r2plus1d18, victims.NETWORKS['r2plus1d18'].names),
    'vivit': Network(_vivit, victims.NETWORKS['vivit'].names),
}
