"""Stores what torchvision's video networks answer, narrowed to a few channels.

  python make_torchvision.py
"""

import torch
from common import NUM_CLASSES, store
from torchvision.models.video import resnet

WIDTHS = 4, 4, 8, 8


def narrow(conv_maker, stem):
  """torchvision's VideoResNet with `WIDTHS` and one block a stage."""
  model = resnet.VideoResNet.__new__(resnet.VideoResNet)
  torch.nn.Module.__init__(model)
  model.inplanes = WIDTHS[0]
  model.stem = stem
  for i, width in enumerate(WIDTHS, 1):
    stage = model._make_layer(resnet.BasicBlock, conv_maker, width, 1,
                              stride=1 if i == 1 else 2)
    setattr(model, f'layer{i}', stage)
  model.avgpool = torch.nn.AdaptiveAvgPool3d(1)
  model.fc = torch.nn.Linear(WIDTHS[-1], NUM_CLASSES)
  return model


def layers(width_in, width, kernel, strides):
  """A convolution, its norm and its activation, as torchvision's stems."""
  return (
      torch.nn.Conv3d(width_in, width, kernel, strides,
                      [k // 2 for k in kernel], bias=False),
      torch.nn.BatchNorm3d(width), torch.nn.ReLU())


def r3d18():
  stem = torch.nn.Sequential(*layers(3, WIDTHS[0], (3, 3, 3), (1, 2, 2)))
  return narrow(resnet.Conv3DSimple, stem)


def r2plus1d18():
  stem = torch.nn.Sequential(*layers(3, 3, (1, 3, 3), (1, 2, 2)),
                             *layers(3, WIDTHS[0], (3, 1, 1), (1, 1, 1)))
  return narrow(resnet.Conv2Plus1D, stem)


def save(name, model, shape):
  store(name, model, shape,
        lambda clips: model(clips.permute(0, 4, 1, 2, 3)), 0.1)


def main():
  torch.manual_seed(0)
  save('r3d18', r3d18(), (4, 16, 16, 3))
  save('r2plus1d18', r2plus1d18(), (4, 16, 16, 3))
  model = r3d18()
  model.eval = model.train  # the batch's own statistics
  save('r3d18_batch', model, (4, 32, 32, 3))


if __name__ == '__main__':
  main()
