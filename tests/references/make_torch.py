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


class C3d(nn.Module):
  """C3D with two stages."""

  def __init__(self):
    super().__init__()
    self.conv1 = nn.Conv3d(3, 4, 3, padding=1)
    self.conv2a = nn.Conv3d(4, 8, 3, padding=1)
    self.conv2b = nn.Conv3d(8, 8, 3, padding=1)
    self.fc6 = nn.Linear(8 * 2 * 5 * 5, 16)
    self.fc7 = nn.Linear(16, 16)
    self.fc8 = nn.Linear(16, NUM_CLASSES)

  def forward(self, clips):
    pool = nn.functional.max_pool3d
    x = torch.relu(self.conv1(clips.permute(0, 4, 1, 2, 3)))
    x = pool(x, (1, 2, 2))
    x = torch.relu(self.conv2b(torch.relu(self.conv2a(x))))
    x = pool(x, 2, padding=(0, 1, 1)).flatten(1)
    return self.fc8(torch.relu(self.fc7(torch.relu(self.fc6(x)))))


class FactorisedEncoder(nn.Module):
  """ViViT's factorised encoder out of torch's own pre-norm layers."""

  def __init__(self, width=16, heads=2, mlp=32):
    super().__init__()
    self.embed = nn.Linear(2 * 8 * 8 * 3, width)
    for name, depth, tokens in (('space', 2, 4), ('time', 4, 2)):
      layer = nn.TransformerEncoderLayer(
          width, heads, mlp, 0.0, lambda x: nn.functional.gelu(
              x, approximate='tanh'),
          1e-6, batch_first=True, norm_first=True)
      encoder = nn.TransformerEncoder(layer, depth, nn.LayerNorm(width, 1e-6),
                                      enable_nested_tensor=False)
      encoder.cls = nn.Parameter(torch.zeros(1, 1, width))
      encoder.positions = nn.Parameter(torch.zeros(1, tokens + 1, width))
      setattr(self, name, encoder)
    self.head = nn.Linear(width, NUM_CLASSES)

  def encode(self, encoder, x):
    x = torch.cat([encoder.cls.expand(len(x), -1, -1), x], 1)
    return encoder(x + encoder.positions)[:, 0]

  def forward(self, clips):
    x = clips.reshape(-1, 2, 2, 2, 8, 2, 8, 3).permute(0, 1, 3, 5, 2, 4, 6, 7)
    x = self.embed(x.reshape(len(clips) * 2, 4, -1))
    x = self.encode(self.space, x).reshape(len(clips), 2, -1)
    return self.head(self.encode(self.time, x))


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
    store(name, model, SHAPE)
  store('c3d', C3d(), SHAPE, scale=0.1)
  store('vivit_factorised', FactorisedEncoder(), SHAPE)
  resnet = CifarResNet((4, 8), 1)
  store('resnet_cifar', resnet, (16, 16, 3), scale=0.1)


if __name__ == '__main__':
  main()
