"""Stores what networks of plain torch layers answer: python make_torch.py."""

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


def main():
  for name, cell in {'cnn_gru': nn.GRU, 'cnn_lstm': nn.LSTM}.items():
    model = CnnRnn(cell)
    store(name, model, SHAPE, model)


if __name__ == '__main__':
  main()
