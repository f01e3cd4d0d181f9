"""Stores what networks of plain torch layers answer: python make_torch.py."""

import torch
from common import NUM_CLASSES, store
from torch import nn

SHAPE = 4, 16, 16, 3


class CnnRnn(nn.Module):
  """Convolutions on each frame, a recurrent layer, a dense head."""

  def __init__(self, cell):
    super().__init__()
    self.features = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1), nn.LeakyReLU(),
        nn.Conv2d(4, 4, 3, 2, 1), nn.LeakyReLU())
    self.rnn = cell(4 * 4 * 4, 8, batch_first=True)
    self.fc = nn.Linear(8, NUM_CLASSES)

  def forward(self, clips):
    x = self.features(clips.flatten(0, 1).permute(0, 3, 1, 2))
    x = x.permute(0, 2, 3, 1).reshape(*clips.shape[:2], -1)
    return self.fc(self.rnn(x)[0][:, -1])


class PaddedBlock(nn.Module):
  """Two 3x3 convolutions, and a shortcut that subsamples and pads."""

  def __init__(self, width_in, width, stride):
    super().__init__()
    self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
    self.bn1 = nn.BatchNorm2d(width)
    self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
    self.bn2 = nn.BatchNorm2d(width)
    self.stride, self.extra = stride, (width - width_in) // 2

  def forward(self, x):
    y = torch.relu(self.bn1(self.conv1(x)))
    y = self.bn2(self.conv2(y))
    x = x[:, :, ::self.stride, ::self.stride]
    x = nn.functional.pad(x, (0, 0, 0, 0, self.extra, self.extra))
    return torch.relu(x + y)


class CifarResNet(nn.Module):
  """The residual networks for CIFAR-10, option A (1512.03385, sect. 4.2)."""

  def __init__(self, widths, depth):
    super().__init__()
    self.conv1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
    self.bn1 = nn.BatchNorm2d(widths[0])
    width_in = widths[0]
    for i, width in enumerate(widths, 1):
      blocks = []
      for j in range(depth):
        stride = 2 if i > 1 and j == 0 else 1
        blocks.append(PaddedBlock(width_in, width, stride))
        width_in = width
      setattr(self, f'layer{i}', nn.Sequential(*blocks))
    self.num_stages = len(widths)
    self.linear = nn.Linear(width_in, NUM_CLASSES)

  def forward(self, frames):
    x = torch.relu(self.bn1(self.conv1(frames.permute(0, 3, 1, 2))))
    for i in range(self.num_stages):
      x = getattr(self, f'layer{i + 1}')(x)
    return self.linear(x.mean((2, 3)))


def main():
  torch.manual_seed(0)
  for name, cell in {'cnn_gru': nn.GRU, 'cnn_lstm': nn.LSTM}.items():
    model = CnnRnn(cell)
    store(name, model, SHAPE, model)
  resnet = CifarResNet((4, 8), 1)
  store('resnet_cifar', resnet, (16, 16, 3), resnet, 0.1)


if __name__ == '__main__':
  main()
