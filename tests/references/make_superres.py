"""Stores what spandrel's generators answer: python make_superres.py.

Random weights under all names in which such networks are published.
"""

from pathlib import Path

import numpy as np
import torch
from spandrel.architectures.Compact.__arch.SRVGG import SRVGGNetCompact
from spandrel.architectures.ESRGAN import ESRGAN

SIZE = 9, 10  # of the frames; no multiple of what x1 folds


def store(name, model, rename=lambda key: key, prefix=''):
  """Writes superres_NAME.npz: frames, answer, and the weights' shapes.

  The weights are drawn by `draw`, by a generator that NumPy froze for good.
  """
  state = {key: draw(i, tensor.shape)
           for i, (key, tensor) in enumerate(model.state_dict().items())}
  model.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()})
  torch.manual_seed(0)
  with torch.no_grad():
    frames = torch.rand(2, *SIZE, 3)
    answer = model.eval()(frames.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
  out = {'frames': frames.numpy(), 'answer': answer.numpy()}
  for key, array in state.items():
    out[f'shape:{prefix}{rename(key)}'] = np.array(array.shape)
  path = Path(__file__).parent / f'superres_{name}.npz'
  np.savez_compressed(path, **out)
  print(path.name, path.stat().st_size // 1024, 'kB', answer.std())


def draw(i, shape):
  """The i-th tensor's weights, of a size that keeps signals alive."""
  fan_in = np.prod(shape[1:]) if len(shape) > 1 else 100
  return (np.random.RandomState(i).randn(*shape) / fan_in ** 0.5
          ).astype(np.float32)


def basicsr(key):
  """Old ESRGAN names to those of BasicSR."""
  for i, new in ((0, 'conv_first'), (3, 'conv_up1'), (6, 'conv_up2'),
                 (8, 'conv_hr'), (10, 'conv_last')):
    key = key.replace(f'model.{i}.', f'{new}.')
  if 'RDB' not in key:
    key = key.replace('model.1.sub.2.', 'conv_body.')
  key = key.replace('model.1.sub.', 'body.').replace('RDB', 'rdb')
  for i in range(1, 6):
    key = key.replace(f'conv{i}.0.', f'conv{i}.')
  return key


def bsrgan(key):
  """BasicSR names to those of the second ESRGAN release."""
  key = basicsr(key)
  if key.startswith('body.'):
    return key.replace('body.', 'RRDB_trunk.').replace('rdb', 'RDB')
  for new, old in (('conv_body', 'trunk_conv'), ('conv_up', 'upconv'),
                   ('conv_hr', 'HRconv')):
    key = key.replace(new, old)
  return key


def main():
  small = {'num_filters': 8, 'num_blocks': 2}
  store('rrdb_x4_old', ESRGAN(**small))
  store('rrdb_x4_bsrgan', ESRGAN(**small), bsrgan)
  store('rrdb_x4', ESRGAN(**small), basicsr, 'params_ema.')
  store('rrdb_x2', ESRGAN(**small, in_nc=12, shuffle_factor=2), basicsr)
  store('rrdb_x1', ESRGAN(**small, in_nc=48, shuffle_factor=4), basicsr)
  store('compact_x4', SRVGGNetCompact(num_feat=8, num_conv=3))
  store('compact_x2', SRVGGNetCompact(num_feat=8, num_conv=2, upscale=2),
        prefix='params.')


if __name__ == '__main__':
  main()
