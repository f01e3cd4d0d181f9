"""Stores what torchvision's VGG-19 makes of a frame: python make_perceptual.py.

The weights are drawn as in `make_superres.py`; only their shapes are stored.
"""

from pathlib import Path

import numpy as np
import torch
import torchvision
from make_superres import draw

# Of the perceptual loss: the convolutions that end a stage, before their ReLU.
LAYERS = {'conv1_2': 2, 'conv2_2': 7, 'conv3_4': 16, 'conv4_4': 25,
          'conv5_4': 34}


def main():
  model = torchvision.models.vgg19().features[:35].eval()
  state = {key: draw(i, tensor.shape)
           for i, (key, tensor) in enumerate(model.state_dict().items())}
  model.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()})
  torch.manual_seed(0)
  frames = torch.rand(1, 16, 16, 3)
  out = {'frames': frames.numpy()}
  mean = torch.tensor([0.485, 0.456, 0.406])
  std = torch.tensor([0.229, 0.224, 0.225])
  x = ((frames - mean) / std).permute(0, 3, 1, 2)
  with torch.no_grad():
    for i, layer in enumerate(model):
      x = layer(x)
      for name, at in LAYERS.items():
        if at == i:
          out[name] = x.permute(0, 2, 3, 1).numpy().copy()
  for key, array in state.items():
    out[f'shape:features.{key}'] = np.array(array.shape)
  path = Path(__file__).parent / 'perceptual_vgg19.npz'
  np.savez_compressed(path, **out)
  print(path.name, path.stat().st_size // 1024, 'kB',
        {name: float(out[name].std()) for name in LAYERS})


if __name__ == '__main__':
  main()
