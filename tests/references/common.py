"""How a torch network's answers are stored, for the scripts beside this file.

They run where the extra `peers` is installed; the tests need only the files.
"""

from pathlib import Path

import numpy as np
import torch

NUM_CLASSES = 5


def store(name, model, clip_shape, answer=None, scale=0.3):
  """Writes NAME.npz: random weights, a batch, its logits and gradient.

  Args:
    name: of the file.
    model: a torch module.
    clip_shape: (T, H, W, C).
    answer: clips [B, T, H, W, C] in [0, 1] to the model's logits [B, K]; the
      model itself if None.
    scale: of the noise that is put on weights, so that none is 0 or 1.
  """
  torch.manual_seed(0)
  with torch.no_grad():
    for parameter in model.parameters():
      parameter.add_(scale * torch.randn_like(parameter))
    for key, buffer in model.named_buffers():
      if key.endswith('running_mean'):
        buffer.normal_(0, 0.2)
      elif key.endswith('running_var'):
        buffer.uniform_(0.5, 2)
  model.eval()
  clips, labels = torch.rand(2, *clip_shape), torch.tensor([1, 3])
  logits = (answer or model)(clips)
  loss = torch.nn.functional.cross_entropy(logits, labels)
  loss.backward()
  out = {'clips': clips, 'labels': labels.int(), 'logits': logits.detach()}
  for key, tensor in model.state_dict().items():
    if not key.endswith('num_batches_tracked'):
      out[f'weight:{key}'] = tensor
  for key, parameter in model.named_parameters():
    if parameter.grad is not None:
      out[f'grad:{key}'] = parameter.grad
  path = Path(__file__).parent / f'{name}.npz'
  np.savez_compressed(path, **{k: v.numpy() for k, v in out.items()})
  print(path.name, path.stat().st_size // 1024, 'kB', logits.detach().numpy())
